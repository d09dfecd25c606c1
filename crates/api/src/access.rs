//! Who may use operations: the allowlist, then the client certificate, then the password (compatibility.md, 5.5).

use std::net::IpAddr;
use std::time::Duration;

use http::header::AUTHORIZATION;
use subtle::ConstantTimeEq;
use tokio::net::lookup_host;

use crate::answer::Answer;
use crate::call::Call;
use crate::config::{AllowEntry, Credentials, VerifyClient};

/// How long resolving all names of one check may take.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(2);

/// What a route asks of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nothing.
    Open,
    /// All checks.
    Full,
    /// All checks, but the caller need not be a known member: in failsafe mode the members cannot be read.
    SkipMembers,
}

/// Lets the caller pass, or says why not.
pub(crate) async fn check(guard: Guard, call: &Call) -> Result<(), Answer> {
    if guard == Guard::Open {
        return Ok(());
    }
    if !address_allowed(guard, call).await {
        return Err(Answer::text(403, "Access is denied"));
    }
    let verify = call.config.tls.as_ref().map_or(VerifyClient::None, |tls| tls.verify_client);
    if call.peer.tls && verify != VerifyClient::None && !call.peer.certificate {
        return Err(Answer::text(403, "client certificate required"));
    }
    match &call.config.authentication {
        None => Ok(()),
        Some(credentials) => password(credentials, call.headers.get(AUTHORIZATION).map(|header| header.as_bytes())),
    }
}

async fn address_allowed(guard: Guard, call: &Call) -> bool {
    let config = &call.config;
    let members = config.allowlist_include_members && guard == Guard::Full;
    if config.allowlist.is_empty() && !members {
        return true;
    }
    let mut names: Vec<String> = Vec::new();
    for entry in &config.allowlist {
        match entry {
            AllowEntry::Net(net) if net.contains(&call.peer.ip) => return true,
            AllowEntry::Net(_) => {}
            AllowEntry::Host(name) => names.push(name.clone()),
        }
    }
    if members && let Some(cluster) = call.backend.status().cluster {
        names.extend(cluster.members.iter().filter_map(|member| Some(member.api_address()?.host)));
    }
    tokio::time::timeout(RESOLVE_TIMEOUT, any_resolves_to(&names, call.peer.ip)).await.unwrap_or(false)
}

async fn any_resolves_to(names: &[String], ip: IpAddr) -> bool {
    for name in names {
        if let Ok(mut addresses) = lookup_host((name.as_str(), 0)).await
            && addresses.any(|address| address.ip().to_canonical() == ip)
        {
            return true;
        }
    }
    false
}

fn password(credentials: &Credentials, header: Option<&[u8]>) -> Result<(), Answer> {
    let header = header.ok_or_else(|| Answer::text(401, "no auth header received"))?;
    let given = header.strip_prefix(b"Basic ").unwrap_or_default();
    // In constant time, so that the time an answer takes tells nothing of how much of a guess was right.
    if bool::from(given.ct_eq(credentials.basic.as_bytes())) {
        Ok(())
    } else {
        Err(Answer::text(401, "not authenticated"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords() {
        let credentials = Credentials::new("u", "p");
        let check = |header: Option<&[u8]>| password(&credentials, header).map_err(|answer| answer.body().to_owned());
        assert_eq!(check(Some(b"Basic dTpw")), Ok(()));
        assert_eq!(check(None), Err("no auth header received".to_owned()));
        for header in [&b"Basic dTpx"[..], b"basic dTpw", b"Bearer dTpw", b"dTpw", b"Basic ", b"", b"\xff"] {
            assert_eq!(check(Some(header)), Err("not authenticated".to_owned()), "{header:?}");
        }
    }
}
