//! Connection strings of libpq, `host=a user=b` or `postgresql://b@a/db` (PostgreSQL documentation, 34.1.1): their
//! keywords, reading and quoting.

use std::collections::BTreeMap;

/// What a keyword is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Where to connect, and as whom.
    Target,
    /// How a role authenticates: may stand in a section under `postgresql.authentication`.
    Credential,
    /// The same, and its value is a secret.
    Secret,
}

/// A keyword of connection strings.
#[derive(Clone, Copy, Debug)]
pub struct Keyword {
    /// Name.
    pub name: &'static str,
    /// `server_version_num` of the first release whose libpq knows it; 0 for all that are supported.
    pub since: u32,
    /// What it is for.
    pub purpose: Purpose,
}

const fn keyword(name: &'static str, since: u32, purpose: Purpose) -> Keyword {
    Keyword { name, since, purpose }
}

/// Keywords in the order in which they are written.
pub const KEYWORDS: &[Keyword] = &[
    keyword("dbname", 0, Purpose::Target),
    keyword("user", 0, Purpose::Target),
    keyword("passfile", 100_000, Purpose::Target),
    keyword("password", 0, Purpose::Secret),
    keyword("host", 0, Purpose::Target),
    keyword("port", 0, Purpose::Target),
    keyword("sslmode", 0, Purpose::Credential),
    keyword("sslcompression", 0, Purpose::Target),
    keyword("sslcert", 0, Purpose::Credential),
    keyword("sslkey", 0, Purpose::Credential),
    keyword("sslpassword", 130_000, Purpose::Secret),
    keyword("sslrootcert", 0, Purpose::Credential),
    keyword("sslcrl", 0, Purpose::Credential),
    keyword("sslcrldir", 140_000, Purpose::Credential),
    keyword("application_name", 0, Purpose::Target),
    keyword("krbsrvname", 0, Purpose::Target),
    keyword("gssencmode", 120_000, Purpose::Credential),
    keyword("channel_binding", 130_000, Purpose::Credential),
    keyword("target_session_attrs", 100_000, Purpose::Target),
    keyword("sslnegotiation", 170_000, Purpose::Credential),
];

/// Keywords that a role's credentials may hold, secrets included. The role itself is called `username` there, not
/// `user`.
pub fn credential_keywords() -> impl Iterator<Item = &'static Keyword> {
    KEYWORDS.iter().filter(|keyword| keyword.purpose != Purpose::Target)
}

/// A value as it stands behind `keyword=`, without quotes.
pub fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\'' | '\\' | ' ') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Keywords of a connection and their values.
pub type Keywords = BTreeMap<String, String>;

/// Longest string that is read.
const LENGTH_MAX: usize = 16 << 10;

/// Takes a connection string apart. The error is one sentence and shows no value, for one of them may be a password.
pub fn parse(text: &str) -> Result<Keywords, String> {
    if text.len() > LENGTH_MAX {
        return Err(format!("the connection string is longer than {LENGTH_MAX} bytes"));
    }
    match ["postgresql://", "postgres://"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => uri(rest),
        None => key_values(text),
    }
}

fn key_values(text: &str) -> Result<Keywords, String> {
    let mut keywords = Keywords::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or("the connection string is malformed: expected keyword=value pairs separated by blanks")?;
        let key = key.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err("the connection string is malformed: expected a keyword before each =".to_owned());
        }
        let (value, after) = value(after.trim_start()).ok_or_else(|| {
            format!("the connection string is malformed: the quoted value of {key} has no closing quote")
        })?;
        keywords.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(keywords)
}

/// A value, quoted or not, in which a backslash protects the character behind it; and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, character)| character)),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            blank if !quoted && blank.is_whitespace() => return Some((value, &text[at..])),
            character => value.push(character),
        }
    }
    (!quoted).then_some((value, ""))
}

/// `[user[:password]@][host[:port],...][/dbname][?key=value&...]`, parts percent-encoded.
fn uri(text: &str) -> Result<Keywords, String> {
    let mut keywords = Keywords::new();
    let (text, query) = text.split_once('?').unwrap_or((text, ""));
    // A slash may only follow the authority: it is encoded everywhere else.
    let (authority, database) = text.split_once('/').unwrap_or((text, ""));
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };
    let mut add = |key: &str, text: &str| -> Result<(), String> {
        if !text.is_empty() {
            let value =
                decoded(text).ok_or_else(|| format!("the connection URI has a malformed %-code in its {key}"))?;
            keywords.insert(key.to_owned(), value);
        }
        Ok(())
    };
    if let Some(credentials) = credentials {
        let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
        add("user", user)?;
        add("password", password)?;
    }
    let (names, ports): (Vec<&str>, Vec<&str>) = hosts.split(',').map(host_and_port).unzip();
    add("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        add("port", &ports.join(","))?;
    }
    add("dbname", database)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or("the connection URI is malformed: expected key=value after ?")?;
        add(&decoded(key).ok_or("the connection URI has a malformed %-code in a keyword")?, value)?;
    }
    Ok(keywords)
}

fn host_and_port(text: &str) -> (&str, &str) {
    if let Some((host, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return (host, rest.strip_prefix(':').unwrap_or_default());
    }
    text.rsplit_once(':').unwrap_or((text, ""))
}

fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let code = digit(rest.next())? * 16 + digit(rest.next())?;
                u8::try_from(code).ok().filter(|code| *code != 0)?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Result<String, String> {
        parse(text).map(|keywords| keywords.iter().map(|(key, value)| format!("{key}={value};")).collect())
    }

    #[test]
    fn both_forms_are_read() {
        for (text, expected) in [
            ("", ""),
            ("host=a  port = 5 password='it\\'s a \\\\' user=b\\ c", "host=a;password=it's a \\;port=5;user=b c;"),
            ("dbname='' user=x", "dbname=;user=x;"),
            ("postgresql://", ""),
            (
                "postgres://us%40er:p%3Aw@[::1]:5433/db?sslmode=require&host=%2Ftmp",
                "dbname=db;host=/tmp;password=p:w;port=5433;sslmode=require;user=us@er;",
            ),
            ("postgresql://a:1,b/x", "dbname=x;host=a,b;port=1,;"),
        ] {
            assert_eq!(shown(text), Ok(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn errors_show_no_values() {
        for text in ["secret", "password='secret", "a b=secret", "postgres://u:%zzsecret@h", "postgres://h?secret"] {
            let error = shown(text).expect_err("malformed");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
