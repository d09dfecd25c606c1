use super::*;
use proptest::prelude::*;

fn sentence(name: &str, value: &str, version: u32) -> String {
    match verdict(name, value, version) {
        Verdict::Use => "used".to_owned(),
        Verdict::Replace(other, note) => format!("{other} | {note}"),
        Verdict::LeaveOut(note) => note,
    }
}

#[test]
fn every_line_of_the_table_is_read_and_none_overlaps() {
    let lines = TEXT.lines().filter(|line| !line.starts_with('#'));
    for line in lines.clone() {
        assert!(row(line).is_some(), "cannot read {line:?}");
    }
    assert_eq!(lines.count(), TABLE.values().map(Vec::len).sum::<usize>());
    for (name, rows) in TABLE.iter() {
        for pair in rows.windows(2) {
            assert_eq!(pair[0].until, Some(pair[1].since), "{name}: gap or overlap");
        }
        for row in rows {
            assert!(row.until.is_none_or(|until| row.since < until), "{name}: {row:?}");
        }
    }
}

#[test]
fn values_by_version() {
    for (name, value, version, expected) in [
        ("work_mem", "64MB", 150_000, "used"),
        ("WORK_MEM", "64kB", 150_000, "used"),
        ("TimeZone", "UTC", 150_000, "used"),
        ("plpgsql.variable_conflict", "error", 150_000, "used"),
        ("parameter_of_a_fork", "1", 150_000, "used"),
        ("fsync", "of", 150_000, "used"),
        ("vacuum_cost_delay", "1500us", 150_000, "used"),
        ("hot_standby_feedback", "t", 150_000, "used"),
        ("huge_pages", "TRY", 150_000, "used"),
        ("archive_mode", "always", 150_000, "used"),
        ("archive_mode", "yes", 150_000, "used"),
        ("wal_level", "hot_standby", 150_000, "used"),
        ("wal_level", "replica", 90_600, "used"),
        ("checkpoint_timeout", "1h", 90_500, "used"),
        ("min_wal_size", "80MB", 90_600, "used"),
        ("password_encryption", "on", 130_000, "used"),
        ("log_connections", "receipt", 180_000, "used"),
    ] {
        assert_eq!(sentence(name, value, version), expected, "{name} = {value} on {version}");
    }
}

#[test]
fn sentences() {
    let cases = [
        ("work_mem", "1kB", 150_000),
        ("work_mem", "99TB", 150_000),
        ("shared_buffers", "8kB", 150_000),
        ("cpu_tuple_cost", "-1", 150_000),
        ("work_mem", "much", 150_000),
        ("work_mem", "5min", 150_000),
        ("fsync", "maybe", 150_000),
        ("wal_level", "x", 90_500),
        ("archive_mode", "always", 90_400),
        ("checkpoint_timeout", "1d", 90_500),
        ("checkpoint_segments", "10", 150_000),
        ("wal_keep_size", "1GB", 120_000),
        ("summarize_wal", "on", 150_000),
        ("stats_temp_directory", "/run", 150_000),
        ("server_version_num", "1", 150_000),
        ("replication_timeout", "1min", 90_600),
        ("force_parallel_mode", "on", 90_300),
        ("max_connections", "300000", 150_000),
    ];
    let lines: Vec<String> = cases.iter().map(|(name, value, version)| sentence(name, value, *version)).collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    64 | Value=1kB of parameter=work_mem is too low, increasing to 64kB: postgresql.parameters.work_mem expects 64 to 2147483647kB
    2147483647 | Value=99TB of parameter=work_mem is too big, decreasing to 2147483647kB: postgresql.parameters.work_mem expects 64 to 2147483647kB
    16 | Value=8kB of parameter=shared_buffers is too low, increasing to 16 units of 8kB: postgresql.parameters.shared_buffers expects 16 to 1073741823 units of 8kB
    0 | Value=-1 of parameter=cpu_tuple_cost is too low, increasing to 0: postgresql.parameters.cpu_tuple_cost expects at least 0
    Removing integer parameter=work_mem from the config due to the invalid value=much: postgresql.parameters.work_mem expects a whole number, 64 to 2147483647kB
    Removing integer parameter=work_mem from the config due to the invalid value=5min: postgresql.parameters.work_mem expects a whole number, 64 to 2147483647kB
    Removing bool parameter=fsync from the config due to the invalid value=maybe: postgresql.parameters.fsync expects on or off
    Removing enum parameter=wal_level from the config due to the invalid value=x: postgresql.parameters.wal_level expects one of minimal, archive, hot_standby, logical
    Removing bool parameter=archive_mode from the config due to the invalid value=always: postgresql.parameters.archive_mode expects on or off
    3600 | Value=1d of parameter=checkpoint_timeout is too big, decreasing to 3600s: postgresql.parameters.checkpoint_timeout expects 30 to 3600s
    Removing unexpected parameter=checkpoint_segments value=10 from the config: PostgreSQL 15 has no postgresql.parameters.checkpoint_segments, which was removed in release 9.5; max_wal_size has its place
    Removing unexpected parameter=wal_keep_size value=1GB from the config: PostgreSQL 12 has no postgresql.parameters.wal_keep_size, which came with release 13; wal_keep_segments has its place
    Removing unexpected parameter=summarize_wal value=on from the config: PostgreSQL 15 has no postgresql.parameters.summarize_wal, which came with release 17
    Removing unexpected parameter=stats_temp_directory value=/run from the config: PostgreSQL 15 has no postgresql.parameters.stats_temp_directory, which was removed in release 15
    Removing unexpected parameter=server_version_num value=1 from the config: postgresql.parameters.server_version_num cannot be set in a file
    Removing unexpected parameter=replication_timeout value=1min from the config: PostgreSQL 9.6 has no postgresql.parameters.replication_timeout, which was removed in release 9.3; wal_sender_timeout has its place
    Removing unexpected parameter=force_parallel_mode value=on from the config: PostgreSQL 9.3 has no postgresql.parameters.force_parallel_mode, which came with release 9.6
    262143 | Value=300000 of parameter=max_connections is too big, decreasing to 262143: postgresql.parameters.max_connections expects 1 to 262143
    ");
}

#[test]
fn corrections_keep_what_is_sound() {
    let mut parameters = Parameters::from(
        [("work_mem", "1kB"), ("fsync", "x"), ("a.b", "c"), ("port", "5433")]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
    );
    let notes = correct(&mut parameters, 150_000);
    assert_eq!(notes.len(), 2, "{notes:?}");
    let left: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(left, ["a.b=c", "port=5433", "work_mem=64"]);
}

proptest! {
    #[test]
    fn no_value_panics_and_a_replacement_fits(
        name in prop::sample::select(TABLE.keys().cloned().collect::<Vec<_>>()),
        value in prop_oneof!["\\PC{0,12}", "[-+]?[0-9.e]{0,20}(kB|MB|s|ms|min|d)?"],
        version in prop::sample::select(vec![90_300u32, 90_600, 100_000, 130_000, 150_000, 180_000]),
    ) {
        if let Verdict::Replace(other, _) = verdict(&name, &value, version) {
            prop_assert_eq!(verdict(&name, &other, version), Verdict::Use, "{} = {}", name, other);
        }
    }
}
