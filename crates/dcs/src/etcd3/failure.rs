//! What an error of etcd means for the caller.

use std::io;

use etcd_client::Error;

use crate::StoreError;

/// An attempt at one endpoint that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No usable answer; another endpoint, or the same one later, may have one.
    Again {
        /// What went wrong.
        message: String,
        /// The request may have been applied all the same.
        doubtful: bool,
    },
    /// The endpoint answered with an older state than one already seen.
    Behind(String),
    /// The login has run out, or rights are missing; a new login may help.
    LoginAgain(String),
    /// User and password were refused, or there are none and they are required.
    Credentials(String),
    /// The lease of the request does not exist (any more).
    LeaseGone,
    /// etcd understood the request and will not do it.
    Refused(String),
}

impl Failure {
    /// No answer within the time given.
    pub fn timeout(limit: std::time::Duration) -> Failure {
        Failure::Again { message: format!("no answer within {:.1}s", limit.as_secs_f64()), doubtful: true }
    }

    /// The request was certainly not sent.
    pub fn unsent(message: String) -> Failure {
        Failure::Again { message, doubtful: false }
    }

    /// Whether the request may have been applied.
    pub fn is_doubtful(&self) -> bool {
        match self {
            Failure::Again { doubtful, .. } => *doubtful,
            Failure::Behind(_) => true,
            Failure::LoginAgain(_) | Failure::Credentials(_) | Failure::LeaseGone | Failure::Refused(_) => false,
        }
    }

    /// What went wrong, for people.
    pub fn message(&self) -> &str {
        match self {
            Failure::Again { message, .. } => message,
            Failure::Behind(text) | Failure::LoginAgain(text) | Failure::Credentials(text) | Failure::Refused(text) => {
                text
            }
            Failure::LeaseGone => "the lease expired",
        }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Refused(text) => StoreError::Rejected(text),
            other => StoreError::Unreachable(other.message().to_owned()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match &error {
            Error::GRpcStatus(status) => {
                // The code's type belongs to a crate that etcd-client does not re-export; its name is stable.
                let code = format!("{:?}", status.code());
                let cause = root_cause(status);
                let unsent = cause.as_ref().is_some_and(|cause| cause.kind() == io::ErrorKind::ConnectionRefused);
                let message = match cause {
                    Some(cause) => format!("{}: {cause}", status.message()),
                    None => format!("{} ({code})", status.message()),
                };
                classify(&code, status.message(), message, !unsent)
            }
            // etcd answers a keepalive of an unknown lease with a lifetime of zero; the client makes this of it.
            Error::LeaseKeepAliveError(_) => Failure::LeaseGone,
            Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
                Failure::Refused(error.to_string())
            }
            _ => Failure::Again { message: error.to_string(), doubtful: true },
        }
    }
}

/// The I/O error at the bottom of a transport error.
fn root_cause<'a>(status: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let mut error = status.source();
    // Chains of causes are short; the bound is against cycles.
    for _ in 0..16 {
        let current = error?;
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return Some(io);
        }
        error = current.source();
    }
    None
}

/// Makes a failure of a message for people.
type Make = fn(String) -> Failure;

/// Messages that mean something else than their code. etcd's texts are part of its interface: clients in all
/// languages compare them, because several meanings share a code.
const MESSAGES: &[(&str, Make)] = &[
    ("requested lease not found", |_| Failure::LeaseGone),
    ("authentication failed", Failure::Credentials),
    ("user name is empty", Failure::LoginAgain),
    ("invalid auth token", Failure::LoginAgain),
    ("revision of auth store is old", Failure::LoginAgain),
    ("permission denied", Failure::LoginAgain),
    // Of the gRPC library below etcd, for what is too large even to be looked at.
    ("received message larger than max", Failure::Refused),
];

/// Message first, then code; codes without a row ask for another try, `Unknown` among them: it is what a member that
/// just lost its leader answers ("not a primary lessor").
fn classify(code: &str, text: &str, message: String, doubtful: bool) -> Failure {
    if let Some((_, make)) = MESSAGES.iter().find(|(needle, _)| text.contains(needle)) {
        return make(message);
    }
    match code {
        "InvalidArgument" | "OutOfRange" | "Unimplemented" | "AlreadyExists" => Failure::Refused(message),
        "PermissionDenied" | "Unauthenticated" => Failure::LoginAgain(message),
        _ => Failure::Again { message, doubtful },
    }
}

/// etcd runs without authentication although a user is configured.
pub(super) fn is_auth_not_enabled(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("Unknown", "etcdserver: not a primary lessor", "again")]
    #[case("Unavailable", "etcdserver: leader changed", "again")]
    #[case("Unavailable", "etcdserver: no leader", "again")]
    #[case("DeadlineExceeded", "context deadline exceeded", "again")]
    #[case("FailedPrecondition", "etcdserver: not capable", "again")]
    #[case("ResourceExhausted", "etcdserver: mvcc: database space exceeded", "again")]
    #[case("NotFound", "etcdserver: requested lease not found", "lease")]
    #[case("InvalidArgument", "etcdserver: user name is empty", "login")]
    #[case("InvalidArgument", "etcdserver: revision of auth store is old", "login")]
    #[case("Unauthenticated", "etcdserver: invalid auth token", "login")]
    #[case("PermissionDenied", "etcdserver: permission denied", "login")]
    #[case("Unknown", "etcdserver: invalid auth token", "login")]
    #[case("InvalidArgument", "etcdserver: authentication failed, invalid user ID or password", "credentials")]
    #[case("InvalidArgument", "etcdserver: request is too large", "refused")]
    #[case("ResourceExhausted", "grpc: received message larger than max (2 vs. 1)", "refused")]
    fn codes_and_messages(#[case] code: &str, #[case] text: &str, #[case] expected: &str) {
        let meaning = match classify(code, text, text.to_owned(), true) {
            Failure::Again { .. } => "again",
            Failure::LeaseGone => "lease",
            Failure::LoginAgain(_) => "login",
            Failure::Credentials(_) => "credentials",
            Failure::Refused(_) => "refused",
            Failure::Behind(_) => "behind",
        };
        assert_eq!(meaning, expected);
    }

    #[test]
    fn only_a_refusal_is_a_rejection() {
        assert_eq!(StoreError::from(Failure::Refused("x".into())), StoreError::Rejected("x".into()));
        for failure in [Failure::LoginAgain("x".into()), Failure::Credentials("x".into()), Failure::Behind("x".into())]
        {
            assert_eq!(StoreError::from(failure), StoreError::Unreachable("x".into()));
        }
    }
}
