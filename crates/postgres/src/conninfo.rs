//! libpq connection strings (PostgreSQL documentation, 34.1.1) and password files (34.16).

use model::HostPort;

use crate::config::{Credentials, PgConfig};

/// Keywords in the order they are written, with the first version whose libpq knows them.
const ORDER: &[(&str, u32)] = &[
    ("dbname", 0),
    ("user", 0),
    ("passfile", 100_000),
    ("password", 0),
    ("host", 0),
    ("port", 0),
    ("sslmode", 0),
    ("sslcompression", 0),
    ("sslcert", 0),
    ("sslkey", 0),
    ("sslpassword", 130_000),
    ("sslrootcert", 0),
    ("sslcrl", 0),
    ("sslcrldir", 140_000),
    ("application_name", 0),
    ("krbsrvname", 0),
    ("gssencmode", 120_000),
    ("channel_binding", 130_000),
    ("target_session_attrs", 100_000),
    ("sslnegotiation", 170_000),
];

/// A connection string under construction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dsn(Vec<(String, String)>);

impl Dsn {
    /// Sets a keyword; empty values are left out.
    pub fn set(mut self, keyword: &str, value: &str) -> Dsn {
        self.0.retain(|(known, _)| known != keyword);
        if !value.is_empty() {
            self.0.push((keyword.to_owned(), value.to_owned()));
        }
        self
    }

    /// Sets a keyword unless it is set.
    pub fn or(self, keyword: &str, value: &str) -> Dsn {
        if self.0.iter().any(|(known, _)| known == keyword) { self } else { self.set(keyword, value) }
    }

    /// `keyword=value` in the fixed order, without what this version's libpq does not know.
    pub fn render(&self, version: u32) -> String {
        let parts = ORDER.iter().filter(|(_, since)| version >= *since).filter_map(|(keyword, _)| {
            let (_, value) = self.0.iter().find(|(known, _)| known == keyword)?;
            Some(format!("{keyword}={}", escaped(value)))
        });
        parts.collect::<Vec<_>>().join(" ")
    }
}

/// Address and role, without password.
pub(crate) fn dsn(config: &PgConfig, credentials: &Credentials, address: &HostPort) -> Dsn {
    let mut dsn = Dsn::default().set("host", &address.host).set("port", &address.port.to_string());
    if let Some(user) = &credentials.username {
        dsn = dsn.set("user", user);
    }
    for (keyword, value) in &credentials.keywords {
        dsn = dsn.set(keyword, value);
    }
    match &config.krbsrvname {
        Some(service) => dsn.set("krbsrvname", service),
        None => dsn,
    }
}

fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if matches!(c, '\'' | '\\' | ' ') {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// Keywords and values of a connection string; `None` when it is malformed.
pub(crate) fn parse(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (keyword, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut chars = after.char_indices().skip(usize::from(quoted));
        let mut value = String::new();
        let mut end = after.len();
        let mut closed = !quoted;
        while let Some((index, c)) = chars.next() {
            match c {
                '\\' => value.push(chars.next()?.1),
                '\'' if quoted => {
                    end = index + 1;
                    closed = true;
                    break;
                }
                c if c.is_whitespace() && !quoted => {
                    end = index;
                    break;
                }
                other => value.push(other),
            }
        }
        if !closed {
            return None;
        }
        pairs.push((keyword.trim().to_owned(), value));
        rest = after[end..].trim_start();
    }
    Some(pairs)
}

/// The server a connection string names. Of several hosts all are kept, as text, with the first port.
pub(crate) fn address(text: &str) -> Option<HostPort> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return HostPort::from_url(text).map(|mut address| {
            if address.port == 0 {
                address.port = 5432;
            }
            address
        });
    }
    let pairs = parse(text)?;
    let value = |keyword: &str| pairs.iter().rev().find(|(known, _)| known == keyword).map(|(_, value)| value);
    let host = value("host").or_else(|| value("hostaddr"))?.clone();
    let port = value("port").and_then(|port| port.split(',').next()?.parse().ok()).unwrap_or(5432);
    Some(HostPort { host, port })
}

/// Lines of a password file for one role on a server of one or several hosts; none when there is no password. A
/// socket directory gets a second line, for `localhost`, which libpq looks up for the default directory.
pub(crate) fn pgpass_lines(credentials: &Credentials, address: &HostPort) -> String {
    let Some(password) = &credentials.password else { return String::new() };
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let user = credentials.username.as_deref().map_or("*".to_owned(), escape);
    let password = escape(password.expose());
    let mut lines = String::new();
    for host in address.host.split(',') {
        let socket = host.starts_with('/');
        let names = std::iter::once(host).chain(socket.then_some("localhost"));
        for name in names {
            lines.push_str(&format!("{}:{}:*:{user}:{password}\n", escape(name), address.port));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;
    use proptest::prelude::*;

    #[test]
    fn fixed_order_and_version_gates() {
        let dsn = Dsn::default()
            .set("application_name", "node 1")
            .set("channel_binding", "prefer")
            .set("port", "5432")
            .set("host", "10.0.0.1")
            .set("passfile", "/home/it's")
            .set("user", "repl");
        let expected = r"user=repl passfile=/home/it\'s host=10.0.0.1 port=5432 application_name=node\ 1";
        assert_eq!(dsn.render(120_000), expected);
        assert_eq!(dsn.render(130_000), format!("{expected} channel_binding=prefer"));
    }

    #[test]
    fn addresses_of_connection_strings() {
        for (text, expected) in [
            ("host=10.0.0.1 port=5433 user=x", Some("10.0.0.1:5433")),
            ("user = 'it\\'s me' host = 'db'", Some("db:5432")),
            ("host=a,b port=5433,5434", Some("a,b:5433")),
            ("postgres://u:p@db:5434/x", Some("db:5434")),
            ("user=x", None),
            ("host='open", None),
            ("host", None),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn password_file_lines_are_escaped() {
        let credentials = Credentials {
            username: Some("re:pl".to_owned()),
            password: Some(Secret::new(r"a\b:c")),
            ..Credentials::default()
        };
        let address = HostPort { host: "a,/run".to_owned(), port: 5432 };
        let expected =
            "a:5432:*:re\\:pl:a\\\\b\\:c\n/run:5432:*:re\\:pl:a\\\\b\\:c\nlocalhost:5432:*:re\\:pl:a\\\\b\\:c\n";
        assert_eq!(pgpass_lines(&credentials, &address), expected);
    }

    proptest! {
        #[test]
        fn rendered_values_parse_back(value in "[^\u{0}\\s]{1,20}") {
            let text = Dsn::default().set("user", &value).set("port", "1").render(150_000);
            let pairs = parse(&text).expect("well-formed");
            prop_assert_eq!(&pairs[0].1, &value);
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = address(&text);
        }
    }
}
