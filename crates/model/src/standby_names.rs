//! `synchronous_standby_names`: whose confirmation a commit waits for (PostgreSQL documentation, 20.6.2).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// A name that no standby has: commits wait until somebody who may confirm them is there.
pub const PLACEHOLDER: &str = "__patroni_strict_sync_replica_placeholder__";

/// How the standbys that must confirm are chosen from the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// `FIRST n (...)`, `n (...)` or a plain list: the first `n` that are connected, in the order of the list.
    First,
    /// `ANY n (...)`: any `n`.
    Any,
}

/// A parsed value. An empty text is a list without names: nobody is waited for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyNames {
    /// How.
    pub method: Method,
    /// How many must confirm; 0 only with an empty list.
    pub num: u32,
    /// Names in the order given, `*` for any standby.
    pub names: Vec<String>,
}

impl StandbyNames {
    /// Nobody is waited for.
    pub fn none() -> StandbyNames {
        StandbyNames { method: Method::First, num: 0, names: Vec::new() }
    }

    /// Reads a value as PostgreSQL does; `None` where PostgreSQL would refuse it.
    pub fn parse(text: &str) -> Option<StandbyNames> {
        let tokens = tokenize(text)?;
        let (method, rest) = match tokens.as_slice() {
            [] => return Some(StandbyNames::none()),
            [Token::Word(word), rest @ ..] if word.eq_ignore_ascii_case("any") && rest.get(1) == Some(&Token::Open) => {
                (Method::Any, rest)
            }
            [Token::Word(word), rest @ ..]
                if word.eq_ignore_ascii_case("first") && rest.get(1) == Some(&Token::Open) =>
            {
                (Method::First, rest)
            }
            all => (Method::First, all),
        };
        let (num, list) = match rest {
            [Token::Word(num), Token::Open, list @ .., Token::Close] => {
                (num.parse().ok().filter(|num| *num > 0)?, list)
            }
            list => (1, list),
        };
        let mut names = Vec::new();
        for (place, token) in list.iter().enumerate() {
            match (place % 2, token) {
                (0, Token::Word(name) | Token::Quoted(name)) => names.push(name.clone()),
                (1, Token::Comma) if place + 1 < list.len() => {}
                _ => return None,
            }
        }
        (!names.is_empty()).then_some(StandbyNames { method, num, names })
    }

    /// The listed names in lower case: PostgreSQL compares without regard to case.
    pub fn folded(&self) -> BTreeSet<String> {
        self.names.iter().map(|name| name.to_lowercase()).collect()
    }

    /// `*` is in the list: whoever connects may confirm.
    pub fn any_standby(&self) -> bool {
        self.names.iter().any(|name| name == "*")
    }

    /// Both wait for the same standbys.
    pub fn same(&self, other: &StandbyNames) -> bool {
        // With all of the list needed, the method and the order make no difference.
        let all = |names: &StandbyNames| names.num as usize >= names.folded().len();
        self.folded() == other.folded()
            && ((all(self) && all(other)) || (self.num == other.num && self.method == other.method))
    }
}

impl fmt::Display for StandbyNames {
    /// `a`, `2 (a,b)` or `ANY 1 (a,b)`; empty where nobody is waited for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self.names.iter().map(|name| quoted(name)).collect();
        match (self.method, names.as_slice()) {
            (_, []) => Ok(()),
            (Method::First, [only]) if self.num == 1 => f.write_str(only),
            (Method::First, names) => write!(f, "{} ({})", self.num, names.join(",")),
            (Method::Any, names) => write!(f, "ANY {} ({})", self.num, names.join(",")),
        }
    }
}

/// A name as it stands in the list: quoted unless it is a plain identifier that means nothing else there.
fn quoted(name: &str) -> String {
    let starts = |c: char| c.is_ascii_lowercase() || c == '_';
    let plain = name.starts_with(starts) && name.chars().all(|c| starts(c) || c.is_ascii_digit());
    if (plain && !matches!(name, "first" | "any")) || name == "*" {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Open,
    Close,
    Comma,
}

fn tokenize(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '(' => tokens.push(Token::Open),
            ')' => tokens.push(Token::Close),
            ',' => tokens.push(Token::Comma),
            '*' => tokens.push(Token::Word("*".to_owned())),
            '"' => {
                let mut name = String::new();
                loop {
                    match chars.next()? {
                        '"' if chars.peek() == Some(&'"') => {
                            chars.next();
                            name.push('"');
                        }
                        '"' => break,
                        other => name.push(other),
                    }
                }
                tokens.push(Token::Quoted(name));
            }
            c if c.is_whitespace() => {}
            c => {
                let mut word = String::from(c);
                while let Some(next) = chars.peek().copied().filter(|c| !c.is_whitespace() && !"(),*\"".contains(*c)) {
                    word.push(next);
                    chars.next();
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Some(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(method: Method, num: u32, names: &[&str]) -> StandbyNames {
        StandbyNames { method, num, names: names.iter().map(|name| (*name).to_owned()).collect() }
    }

    #[test]
    fn as_postgresql_reads_them() {
        use Method::{Any, First};
        for (text, expected) in [
            ("", Some(StandbyNames::none())),
            ("  ", Some(StandbyNames::none())),
            ("a", Some(names(First, 1, &["a"]))),
            ("a, b", Some(names(First, 1, &["a", "b"]))),
            ("*", Some(names(First, 1, &["*"]))),
            ("2 (a,b)", Some(names(First, 2, &["a", "b"]))),
            ("first 1(a,\"B-c\")", Some(names(First, 1, &["a", "B-c"]))),
            ("ANY 2 (a, b , c)", Some(names(Any, 2, &["a", "b", "c"]))),
            ("any", Some(names(First, 1, &["any"]))),
            ("\"x\"\"y\"", Some(names(First, 1, &["x\"y"]))),
            ("ANY (a)", None),
            ("0 (a)", None),
            ("2 ()", None),
            ("a,", None),
            ("a b", None),
            ("\"open", None),
        ] {
            assert_eq!(StandbyNames::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        use Method::{Any, First};
        for (value, text) in [
            (names(First, 1, &["a"]), "a"),
            (names(First, 2, &["a", "b"]), "2 (a,b)"),
            (names(Any, 1, &["a"]), "ANY 1 (a)"),
            (names(Any, 1, &["first", "b-1", "C", "d\"e"]), "ANY 1 (\"first\",\"b-1\",\"C\",\"d\"\"e\")"),
            (StandbyNames::none(), ""),
        ] {
            assert_eq!(value.to_string(), text);
            assert_eq!(StandbyNames::parse(text), Some(value));
        }
    }

    #[test]
    fn order_and_case_do_not_matter_where_all_are_needed() {
        let of = |text: &str| StandbyNames::parse(text).expect("a value");
        assert!(of("2 (a,b)").same(&of("ANY 2 (B,a)")) && of("a").same(&of("1 (A)")));
        assert!(!of("1 (a,b)").same(&of("ANY 1 (a,b)")) && !of("a").same(&of("b")) && !of("a").same(&of("")));
    }
}
