//! libpq connection strings (PostgreSQL documentation, 34.1.1) and password files (34.16).

use model::{HostPort, libpq};

use crate::config::{Credentials, PgConfig};

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
        let parts = libpq::KEYWORDS.iter().filter(|keyword| version >= keyword.since).filter_map(|keyword| {
            let (name, value) = self.0.iter().find(|(known, _)| known == keyword.name)?;
            Some(format!("{name}={}", libpq::escaped(value)))
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

/// The server a connection string names. Of several hosts all are kept, as text, with the first port.
pub(crate) fn address(text: &str) -> Option<HostPort> {
    let keywords = libpq::parse(text).ok()?;
    let host = keywords.get("host").or_else(|| keywords.get("hostaddr"))?.clone();
    let port = keywords.get("port").and_then(|port| port.split(',').next()?.parse().ok()).unwrap_or(5432);
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
            let keywords = libpq::parse(&text).expect("well-formed");
            prop_assert_eq!(keywords.get("user"), Some(&value));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,60}") {
            let _ = address(&text);
        }
    }
}
