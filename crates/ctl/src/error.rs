//! How a command ends when it does not succeed.

use dcs::StoreError;

/// Why a command stopped. The exit code follows from the variant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CtlError {
    /// The command cannot be done; printed as `Error: <sentence>`, exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The arguments do not fit together; printed like [`CtlError::Failed`], exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The user ended a prompt (end of input); printed as `Aborted!`, exit code 1.
    #[error("Aborted!")]
    Aborted,
}

/// The result of a command or a part of one.
pub type Result<T = ()> = std::result::Result<T, CtlError>;

impl CtlError {
    /// The process's exit code.
    pub fn exit_code(&self) -> i32 {
        match self {
            CtlError::Failed(_) | CtlError::Aborted => 1,
            CtlError::Usage(_) => 2,
        }
    }
}

impl From<StoreError> for CtlError {
    fn from(error: StoreError) -> Self {
        CtlError::Failed(error.to_string())
    }
}

/// An `Err` with the sentence.
pub fn fail<T>(sentence: impl Into<String>) -> Result<T> {
    Err(CtlError::Failed(sentence.into()))
}
