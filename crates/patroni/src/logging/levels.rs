//! Which events are logged: `log.level` for this program, `log.loggers` for parts of it by upstream's module names.

use config::sections::{Log, LogLevel};
use tracing_subscriber::filter::{LevelFilter, Targets};

/// The crates whose lines `log.level` is about; libraries speak only of what should be looked at.
const OURS: [&str; 10] = ["agent", "api", "config", "ctl", "daemon", "dcs", "ha", "model", "patroni", "postgres"];

/// Upstream's loggers, and the parts of this program that do their work. A name that is not here counts as the longest
/// one here that it lies below, else as the name of a crate.
const LOGGERS: &[(&str, &[&str])] = &[
    ("patroni", &OURS),
    ("patroni.__main__", &["daemon", "patroni"]),
    ("patroni.api", &["api"]),
    ("patroni.async_executor", &["agent::tasks"]),
    ("patroni.config", &["config"]),
    ("patroni.ctl", &["ctl"]),
    ("patroni.dcs", &["dcs"]),
    ("patroni.dcs.etcd3", &["dcs::etcd3"]),
    ("patroni.ha", &["agent", "ha"]),
    ("patroni.postgresql", &["postgres"]),
    ("patroni.postgresql.callback_executor", &["agent::callbacks"]),
    ("patroni.postgresql.rewind", &["postgres::rewind"]),
    ("patroni.postgresql.slots", &["postgres::slots"]),
    ("patroni.request", &["agent::peers"]),
    ("patroni.watchdog", &["agent::fence"]),
    ("urllib3", &["h2", "hyper", "hyper_util", "reqwest", "tonic", "tower"]),
];

/// What is let through.
pub fn targets(log: &Log) -> Targets {
    let level = filter(log.level);
    let mut targets = Targets::new().with_default(level.min(LevelFilter::WARN));
    for name in OURS {
        targets = targets.with_target(name, level);
    }
    // Names further up first, so that the more special one counts.
    let mut loggers = log.loggers.clone();
    loggers.sort_by_key(|(name, _)| name.len());
    for (name, level) in &loggers {
        match parts(name) {
            Some(parts) => {
                for part in parts {
                    targets = targets.with_target(*part, filter(*level));
                }
            }
            None => targets = targets.with_target(name.replace('.', "::"), filter(*level)),
        }
    }
    targets
}

fn parts(name: &str) -> Option<&'static [&'static str]> {
    let mut name = name;
    loop {
        if let Some((_, parts)) = LOGGERS.iter().find(|(logger, _)| *logger == name) {
            return Some(parts);
        }
        // Below `patroni` itself are modules that have no counterpart.
        name = name.rsplit_once('.').map(|(parent, _)| parent).filter(|parent| *parent != "patroni")?;
    }
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warning => LevelFilter::WARN,
        LogLevel::Error | LogLevel::Critical => LevelFilter::ERROR,
    }
}
