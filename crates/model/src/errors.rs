//! Errors as text for people.

/// An error with what caused it, outermost first: the innermost causes say what went wrong, the outermost often only that
/// something did.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
