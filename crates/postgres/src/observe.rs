//! One look at the server: a single statement for everything, and the snapshot around it.

use std::collections::BTreeMap;

use model::lsn::{Lsn, Timeline};
use model::member::{PendingRestart, ValueChange};
use model::pg::{ServerStatus, Upstream, WalSender};
use model::slots::{Slot, Xid};
use serde_json::Value;
use tokio_postgres::SimpleQueryRow;

use crate::guc::{self, Parameters};
use crate::recovery;

/// The statement for a server version (`server_version_num` of its major release).
pub(crate) fn statement(version: u32) -> String {
    let (wal, lsn) = if version >= 100_000 { ("wal", "lsn") } else { ("xlog", "location") };
    let since =
        |least: u32, text: &'static str, otherwise: &'static str| if version >= least { text } else { otherwise };
    let (flush, walfile) = match version {
        100_000.. => ("pg_current_wal_flush_lsn()", "pg_walfile_name(pg_current_wal_lsn())"),
        90_600.. => ("pg_current_xlog_flush_location()", "pg_xlogfile_name(pg_current_xlog_location())"),
        _ => ("pg_current_xlog_location()", "pg_xlogfile_name(pg_current_xlog_location())"),
    };
    let receiver_table =
        since(90_600, "pg_stat_wal_receiver", "(SELECT NULL::text AS status, NULL::int AS received_tli)");
    let written = since(130_000, "(SELECT written_lsn FROM pg_stat_wal_receiver)", "NULL::text");
    let latest_end = since(90_600, "(SELECT latest_end_lsn FROM pg_stat_wal_receiver)", "NULL::text");
    let control_timeline = since(
        90_600,
        "greatest((pg_control_checkpoint()).timeline_id, (pg_control_recovery()).min_recovery_end_timeline)",
        "NULL::int",
    );
    let current = |name: &str| {
        if version >= 120_000 { format!("current_setting('{name}')") } else { "NULL::text".to_owned() }
    };
    let slots = if version >= 90_400 { slots_subquery(version) } else { "NULL::text".to_owned() };
    let names: Vec<String> = guc::command_line_names().map(|name| format!("'{name}'")).collect();
    let names = names.join(",");
    let settings = settings_subquery(version, &names);
    format!(
        "SELECT current_setting('server_version_num') AS version_num, \
         (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint AS start_time, \
         r AS in_recovery, \
         CASE WHEN r THEN coalesce((SELECT nullif(received_tli, 0) FROM {receiver_table} w LIMIT 1), {control_timeline}) \
           ELSE ('x' || substr({walfile}, 1, 8))::bit(32)::int END AS timeline, \
         CASE WHEN r THEN NULL ELSE {flush} END AS flush_lsn, \
         pg_last_{wal}_receive_{lsn}() AS receive_lsn, {written} AS written_lsn, \
         pg_last_{wal}_replay_{lsn}() AS replay_lsn, \
         (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000000)::bigint AS replay_timestamp, \
         r AND pg_is_{wal}_replay_paused() AS replay_paused, \
         (SELECT status FROM {receiver_table} w LIMIT 1) AS receiver_status, {latest_end} AS receiver_latest_end, \
         {conninfo} AS conninfo, {slot_name} AS slot_name, {restore} AS restore_command, \
         {slots} AS slots, \
         (SELECT json_agg(row_to_json(s)) FROM (SELECT usename, application_name, client_addr::text, state, sync_state, \
           sync_priority, write_{lsn}::text AS write_lsn, flush_{lsn}::text AS flush_lsn, \
           replay_{lsn}::text AS replay_lsn FROM pg_stat_replication) s) AS senders, \
         current_setting('synchronous_standby_names') AS synchronous_standby_names, \
         current_setting('synchronous_commit') AS synchronous_commit, {settings} AS settings \
         FROM (SELECT pg_is_in_recovery() AS r) q",
        conninfo = current("primary_conninfo"),
        slot_name = current("primary_slot_name"),
        restore = current("restore_command"),
    )
}

fn slots_subquery(version: u32) -> String {
    let column =
        |least: u32, name: &str, absent: &str| if version >= least { name.to_owned() } else { absent.to_owned() };
    format!(
        "(SELECT json_agg(row_to_json(s)) FROM (SELECT slot_name::text AS name, slot_type = 'logical' AS logical, \
         database::text, plugin::text, active, restart_lsn::text, {confirmed} AS confirmed_flush_lsn, \
         (xmin IS NOT NULL OR catalog_xmin IS NOT NULL) AS has_xmin, catalog_xmin::text, {lost} AS lost, \
         {temporary} AS temporary, {failover} AS failover, {synced} AS synced \
         FROM pg_replication_slots) s)",
        confirmed = column(90_600, "confirmed_flush_lsn::text", "NULL::text"),
        lost = column(130_000, "coalesce(wal_status = 'lost', false)", "false"),
        temporary = column(100_000, "temporary", "false"),
        failover = column(170_000, "failover", "false"),
        synced = column(170_000, "synced", "false"),
    )
}

/// Values in force of the controlled parameters, and of what waits for a restart with its value in the files.
fn settings_subquery(version: u32, names: &str) -> String {
    let (pending, in_files) = if version >= 90_500 {
        (
            "pending_restart",
            "CASE WHEN pending_restart THEN (SELECT f.setting FROM pg_file_settings f WHERE f.name = p.name \
             ORDER BY f.seqno DESC LIMIT 1) END",
        )
    } else {
        ("false", "NULL::text")
    };
    format!(
        "(SELECT json_agg(row_to_json(s)) FROM (SELECT name, setting, current_setting(name) AS shown, vartype, \
         coalesce(unit, '') AS unit, {pending} AS pending, {in_files} AS in_files, coalesce(boot_val, '') AS boot \
         FROM pg_settings p WHERE {pending} OR name IN ({names})) s)"
    )
}

/// One parameter of the running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    name: String,
    setting: String,
    shown: String,
    vartype: String,
    unit: String,
    pending: bool,
    in_files: Option<String>,
    boot: String,
}

/// What the statement answers.
pub(crate) struct Answer {
    pub status: ServerStatus,
    pub settings: Vec<Setting>,
}

/// Reads the one row; `None` when it is not what the statement asks for.
pub(crate) fn read_row(row: &SimpleQueryRow, upstream_on_disk: Option<Upstream>) -> Option<Answer> {
    let column = |name: &str| row.try_get(name).ok().flatten();
    let lsn = |name: &str| column(name).and_then(|text| text.parse::<Lsn>().ok());
    let instant = |name: &str| jiff::Timestamp::from_microsecond(column(name)?.parse().ok()?).ok();
    let text = |name: &str| column(name).unwrap_or("").to_owned();
    let list = |name: &str| -> Vec<Value> {
        column(name).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    };
    let upstream = match column("conninfo") {
        Some(conninfo) => recovery::upstream_of(conninfo, column("slot_name").unwrap_or("")),
        None => upstream_on_disk,
    };
    let in_recovery = column("in_recovery")? == "t";
    let status = ServerStatus {
        version_num: column("version_num")?.parse().ok()?,
        start_time: instant("start_time")?,
        in_recovery,
        timeline: column("timeline").and_then(|text| text.parse().ok()).filter(|number| *number > 0).map(Timeline),
        flush_lsn: lsn("flush_lsn"),
        receive_lsn: lsn("receive_lsn").max(lsn("written_lsn")).filter(|_| in_recovery),
        replay_lsn: lsn("replay_lsn").filter(|_| in_recovery),
        replay_timestamp: instant("replay_timestamp").filter(|_| in_recovery),
        replay_paused: column("replay_paused") == Some("t"),
        receiver_status: column("receiver_status").map(str::to_owned),
        receiver_latest_end: lsn("receiver_latest_end"),
        upstream: upstream.filter(|_| in_recovery),
        has_restore_command: column("restore_command").is_some_and(|command| !command.is_empty()),
        slots: list("slots").iter().filter_map(slot).collect(),
        senders: list("senders").iter().filter_map(sender).collect(),
        synchronous_standby_names: text("synchronous_standby_names"),
        synchronous_commit: text("synchronous_commit"),
    };
    Some(Answer { status, settings: list("settings").iter().filter_map(setting).collect() })
}

fn field(value: &Value, name: &str) -> Option<String> {
    value.get(name)?.as_str().map(str::to_owned)
}

fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or(false)
}

fn lsn_field(value: &Value, name: &str) -> Option<Lsn> {
    value.get(name)?.as_str()?.parse().ok()
}

fn slot(value: &Value) -> Option<Slot> {
    Some(Slot {
        name: field(value, "name")?,
        logical: flag(value, "logical"),
        database: field(value, "database"),
        plugin: field(value, "plugin"),
        active: flag(value, "active"),
        restart_lsn: lsn_field(value, "restart_lsn"),
        confirmed_flush_lsn: lsn_field(value, "confirmed_flush_lsn"),
        has_xmin: flag(value, "has_xmin"),
        catalog_xmin: field(value, "catalog_xmin").and_then(|text| text.parse().ok()).map(Xid),
        lost: flag(value, "lost"),
        temporary: flag(value, "temporary"),
        failover: flag(value, "failover"),
        synced: flag(value, "synced"),
    })
}

fn sender(value: &Value) -> Option<WalSender> {
    Some(WalSender {
        usename: field(value, "usename").unwrap_or_default(),
        application_name: field(value, "application_name")?,
        client_addr: field(value, "client_addr").map(|address| address.split('/').next().unwrap_or("").to_owned()),
        state: field(value, "state").unwrap_or_default(),
        sync_state: field(value, "sync_state").unwrap_or_default(),
        sync_priority: value.get("sync_priority").and_then(Value::as_i64).unwrap_or(0).try_into().unwrap_or(0),
        write_lsn: lsn_field(value, "write_lsn"),
        flush_lsn: lsn_field(value, "flush_lsn"),
        replay_lsn: lsn_field(value, "replay_lsn"),
    })
}

fn setting(value: &Value) -> Option<Setting> {
    Some(Setting {
        name: field(value, "name")?,
        setting: field(value, "setting")?,
        shown: field(value, "shown")?,
        vartype: field(value, "vartype")?,
        unit: field(value, "unit")?,
        pending: flag(value, "pending"),
        in_files: field(value, "in_files"),
        boot: field(value, "boot")?,
    })
}

/// Recovery parameters of a running server that differ from its files and need a restart.
pub(crate) fn recovery_waits_for_restart(settings: &[Setting]) -> bool {
    settings.iter().any(|setting| setting.pending && recovery::is_recovery_parameter(&setting.name))
}

/// What waits for a restart: parameters that PostgreSQL itself says so of, and controlled ones whose value on the
/// command line is no longer the configured one. Recovery parameters and `hot_standby` do not count.
pub(crate) fn pending_restart(settings: &[Setting], configured: &Parameters) -> PendingRestart {
    let mut pending = BTreeMap::new();
    for setting in settings {
        if setting.name == "hot_standby" || recovery::is_recovery_parameter(&setting.name) {
            continue;
        }
        let wanted = configured.get(&setting.name).filter(|_| guc::is_controlled(&setting.name));
        let new_value = match (wanted, setting.pending) {
            (Some(value), _) => value.as_str(),
            // Taken out of the files: the built-in default returns.
            (None, true) => setting.in_files.as_deref().unwrap_or(&setting.boot),
            (None, false) => continue,
        };
        if !guc::same_value(&setting.setting, new_value, &setting.vartype, &setting.unit) {
            let new_value = guc::human_value(new_value, &setting.vartype, &setting.unit);
            pending.insert(setting.name.clone(), ValueChange { old_value: setting.shown.clone(), new_value });
        }
    }
    pending
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str, unit: &str, pending: bool, in_files: Option<&str>) -> Setting {
        Setting {
            name: name.to_owned(),
            setting: value.to_owned(),
            shown: value.to_owned(),
            vartype: "integer".to_owned(),
            unit: unit.to_owned(),
            pending,
            in_files: in_files.map(str::to_owned),
            boot: "1024".to_owned(),
        }
    }

    #[test]
    fn what_waits_for_a_restart() {
        let settings = [
            setting("max_connections", "100", "", false, None),
            setting("max_wal_senders", "10", "", false, None),
            setting("shared_buffers", "16384", "8kB", true, Some("256MB")),
            setting("max_files_per_process", "900", "", true, None),
            setting("hot_standby", "1", "", true, Some("0")),
        ];
        let configured = Parameters::from([
            ("max_connections".to_owned(), "200".to_owned()),
            ("max_wal_senders".to_owned(), "0xA".to_owned()),
        ]);
        let pending: Vec<String> = pending_restart(&settings, &configured)
            .into_iter()
            .map(|(name, change)| format!("{name} {} -> {}", change.old_value, change.new_value))
            .collect();
        assert_eq!(
            pending,
            ["max_connections 100 -> 200", "max_files_per_process 900 -> 1024", "shared_buffers 16384 -> 256MB"]
        );
    }
}
