//! Rules.

/// Identifies a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleId(pub u16);
