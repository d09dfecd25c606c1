//! `postgresql.authentication`.

use std::collections::BTreeMap;
use std::fmt;

use model::libpq::{Purpose, credential_keywords};

use super::reader::Reader;

/// Text that never shows in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A role and how it connects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// `username`; the operating system's user name where absent.
    pub username: Option<String>,
    /// `password`.
    pub password: Option<Secret>,
    /// `sslpassword`: of the key in `sslkey`.
    pub sslpassword: Option<Secret>,
    /// Other libpq keywords: `sslmode`, `sslcert`, `sslkey`, `sslrootcert`, `sslcrl`, `gssencmode`, ...
    pub keywords: BTreeMap<String, String>,
}

/// Superuser, replication and rewind credentials. Without an `authentication` section the older spellings
/// `postgresql.superuser`, `postgresql.replication` and `postgresql.pg_rewind` are read.
pub(super) fn credentials(reader: &Reader<'_>) -> Result<(Credentials, Credentials, Option<Credentials>), String> {
    let Some(section) = reader.section("authentication")? else {
        let mut superuser = one(reader, "superuser", "postgresql.superuser")?;
        if superuser.is_none() {
            superuser = one(reader, "pg_rewind", "postgresql.pg_rewind")?;
        }
        let replication = one(reader, "replication", "postgresql.replication")?;
        return with_replication(superuser, replication, None);
    };
    let inner = Reader::new(section, "postgresql.authentication");
    let read = |key: &str| one(&inner, key, &format!("postgresql.authentication.{key}"));
    with_replication(read("superuser")?, read("replication")?, read("rewind")?)
}

fn with_replication(
    superuser: Option<Credentials>,
    replication: Option<Credentials>,
    rewind: Option<Credentials>,
) -> Result<(Credentials, Credentials, Option<Credentials>), String> {
    let replication = replication
        .filter(|credentials| credentials.username.is_some())
        .ok_or("postgresql.authentication.replication.username is missing: standbys connect with this role")?;
    Ok((superuser.unwrap_or_default(), replication, rewind.filter(|credentials| credentials.username.is_some())))
}

/// One role's section.
pub(super) fn one(reader: &Reader<'_>, key: &str, path: &str) -> Result<Option<Credentials>, String> {
    let Some(section) = reader.section(key)? else { return Ok(None) };
    let inner = Reader::new(section, path);
    let mut keywords = BTreeMap::new();
    for keyword in credential_keywords().filter(|keyword| keyword.purpose == Purpose::Credential) {
        if let Some(value) = inner.text(keyword.name)? {
            keywords.insert(keyword.name.to_owned(), value);
        }
    }
    Ok(Some(Credentials {
        username: inner.text("username")?,
        password: inner.text("password")?.map(Secret),
        sslpassword: inner.text("sslpassword")?.map(Secret),
        keywords,
    }))
}
