//! Tables as upstream 4.1.5 prints them for the same keys: recorded from it, not derived from this code.

use rstest::rstest;

use crate::output::Format;
use crate::testing::cluster;

type Keys = &'static [(&'static str, &'static str)];

const DEMO: Keys = &[
    (
        "config",
        r#"{"ttl":30,"loop_wait":1,"retry_timeout":10,"synchronous_mode":true,"postgresql":{"use_pg_rewind":true,"parameters":{"max_connections":100,"work_mem":"4MB"}},"slots":null}"#,
    ),
    ("initialize", r#"7000000000000000001"#),
    ("leader", r#"pg1"#),
    (
        "members/pg1",
        r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","state":"running","role":"primary","version":"4.1.5","timeline":3,"xlog_location":104857600}"#,
    ),
    (
        "members/pg2",
        r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","state":"running","role":"replica","version":"4.1.5","timeline":3,"xlog_location":104857600,"receive_lsn":104857600,"replay_lsn":104457600,"replication_state":"streaming"}"#,
    ),
    (
        "members/pg3",
        r#"{"conn_url":"postgres://10.0.0.3:5432/postgres","state":"running","role":"replica","version":"4.1.5","timeline":3,"xlog_location":94371840,"receive_lsn":94371840,"replay_lsn":83886080,"replication_state":"in archive recovery","tags":{"nofailover":true,"zone":"a"},"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"}}}"#,
    ),
    ("status", r#"{"optime":104857600}"#),
    ("sync", r#"{"leader":"pg1","quorum":0,"sync_standby":"pg2"}"#),
];

const QUO: Keys = &[
    ("config", r#"{"ttl":30,"loop_wait":1,"synchronous_mode":"quorum","pause":true}"#),
    ("failover", r#"{"leader":"a","member":"b","scheduled_at":"2030-01-02T03:04:05+00:00"}"#),
    ("initialize", r#""#),
    ("leader", r#"a"#),
    (
        "members/a",
        r#"{"conn_url":"postgres://127.0.0.1:5432/postgres","state":"running","role":"primary","version":"4.1.5","timeline":1,"xlog_location":10485760,"pause":true}"#,
    ),
    (
        "members/b",
        r#"{"conn_url":"postgres://127.0.0.1:5433/postgres","state":"streaming","role":"replica","version":"4.1.5","timeline":1,"xlog_location":10485760,"receive_lsn":10485760,"replay_lsn":10485760,"replication_state":"streaming","tags":{"replicatefrom":"a"},"scheduled_restart":{"schedule":"2030-01-02T03:04:05+00:00","postgres_version":"15.9","postmaster_start_time":"x"}}"#,
    ),
    (
        "members/c",
        r#"{"conn_url":"postgres://127.0.0.1:5434/postgres","state":"creating replica","role":"replica","version":"4.1.5","tags":{"replicatefrom":"b"}}"#,
    ),
    (
        "members/d",
        r#"{"conn_url":"postgres://127.0.0.1:5435/postgres","state":"stopped","role":"replica","version":"4.1.5","tags":{"replicatefrom":"zz"},"pending_restart":true}"#,
    ),
    (
        "members/e",
        r#"{"conn_url":"postgres://127.0.0.1:5436/postgres","state":"running","role":"replica","version":"4.1.5","timeline":1,"xlog_location":9437184,"tags":{"replicatefrom":"b"}}"#,
    ),
    (
        "members/f",
        r#"{"conn_url":"postgres://127.0.0.1:5437/postgres","state":"running","role":"replica","version":"4.1.5","timeline":1,"xlog_location":9437184,"replication_state":"streaming","pending_restart":true,"pending_restart_reason":{"a":{"old_value":"1","new_value":"2"},"shared_preload_libraries":{"old_value":"pg_stat_statements,pg_cron,auto_explain","new_value":"pg_stat_statements,pg_cron,auto_explain,timescaledb"}}}"#,
    ),
    ("status", r#"{"optime":10485760}"#),
    ("sync", r#"{"leader":"a","quorum":1,"sync_standby":"b,c"}"#),
];

const STB: Keys = &[
    ("config", r#"{"standby_cluster":{"host":"10.1.1.1","port":5432}}"#),
    ("leader", r#"s1"#),
    (
        "members/s1",
        r#"{"conn_url":"postgres://10.2.0.1:5432/postgres","state":"running","role":"standby_leader","version":"4.1.5","timeline":1,"xlog_location":10485760,"receive_lsn":10485760,"replay_lsn":10485760,"replication_state":"streaming"}"#,
    ),
    (
        "members/s2",
        r#"{"conn_url":"postgres://10.2.0.2:5433/postgres","state":"running","role":"replica","version":"4.1.5","timeline":1,"xlog_location":8388608,"receive_lsn":10485760,"replay_lsn":8388608,"replication_state":"streaming"}"#,
    ),
    ("status", r#"{"optime":10485760}"#),
];

const OLD: Keys = &[
    ("leader", r#"z"#),
    ("members/a", r#"garbage"#),
    (
        "members/b",
        r#"{"conn_url":"postgres://h2:5432/postgres","state":"running","role":"replica","version":"4.1.5","xlog_location":11534336,"receive_lsn":0,"replay_lsn":11534336}"#,
    ),
    (
        "members/c",
        r#"{"conn_url":"postgres://h3:5432/postgres","state":"stopped","role":"uninitialized","version":"4.1.5"}"#,
    ),
    (
        "members/d",
        r#"{"conn_url":"postgres://h4:5432/postgres","state":"start failed","role":"demoted","version":"4.1.5","tags":{"nostream":true},"receive_lsn":1,"replay_lsn":5767168}"#,
    ),
    (
        "members/e",
        r#"{"conn_url":"postgres://h5:5432/postgres","state":"running","role":"replica","version":"4.1.5","receive_lsn":8912896,"replay_lsn":9961473,"scheduled_restart":{"schedule":"2030-01-01T00:00:00+00:00"}}"#,
    ),
    ("members/z", r#"postgres://u:p@h:5432/postgres?application_name=http://h:8008/patroni"#),
    ("status", r#"{"optime":10485760}"#),
];

const ZED: Keys = &[
    ("config", r#"{"loop_wait":1}"#),
    ("failover", r#"{"leader":"z","scheduled_at":"2030-01-02T01:04:05.5+00:00"}"#),
    ("leader", r#"z"#),
    (
        "members/a",
        r#"{"conn_url":"postgres://h1:5432/postgres","state":"running","role":"replica","version":"4.1.5","receive_lsn":5242880,"replay_lsn":5242880}"#,
    ),
    (
        "members/b",
        r#"{"conn_url":"postgres://h2:5432/postgres","state":"running","role":"replica","version":"4.1.5","tags":{"replicatefrom":"z"}}"#,
    ),
    ("members/z", r#"{"conn_url":"postgres://h3:5432/postgres","state":"running","role":"primary","version":"4.1.5"}"#),
];

const DEMO_PRETTY: &str = r#"+ Cluster: demo (7000000000000000001) -------------------+----+-------------+-----+------------+-----+-----------------+---------------------------+------------------+
| Member | Host     | Role         | State               | TL | Receive LSN | Lag | Replay LSN | Lag | Pending restart | Pending restart reason    | Tags             |
+--------+----------+--------------+---------------------+----+-------------+-----+------------+-----+-----------------+---------------------------+------------------+
| pg1    | 10.0.0.1 | Leader       | running             |  3 |             |     |            |     |                 |                           |                  |
+--------+----------+--------------+---------------------+----+-------------+-----+------------+-----+-----------------+---------------------------+------------------+
| pg2    | 10.0.0.2 | Sync Standby | streaming           |  3 |   0/6400000 |   0 |  0/639E580 |   0 |                 |                           |                  |
+--------+----------+--------------+---------------------+----+-------------+-----+------------+-----+-----------------+---------------------------+------------------+
| pg3    | 10.0.0.3 | Replica      | in archive recovery |  3 |   0/5A00000 |  10 |  0/5000000 |  20 | *               | max_connections: 100->200 | nofailover: true |
|        |          |              |                     |    |             |     |            |     |                 |                           | zone: a          |
+--------+----------+--------------+---------------------+----+-------------+-----+------------+-----+-----------------+---------------------------+------------------+
"#;

const DEMO_TSV: &str = r#"Cluster	Member	Host	Role	State	TL	Receive LSN	Receive Lag	Replay LSN	Replay Lag	Pending restart	Pending restart reason	Tags
demo	pg1	10.0.0.1	Leader	running	3							
demo	pg2	10.0.0.2	Sync Standby	streaming	3	0/6400000	0	0/639E580	0			
demo	pg3	10.0.0.3	Replica	in archive recovery	3	0/5A00000	10	0/5000000	20	*	max_connections: 100->200	{nofailover: true, zone: a}
"#;

const DEMO_YAML: &str = r#"- Cluster: demo
  Host: 10.0.0.1
  Member: pg1
  Role: Leader
  State: running
  TL: 3
- Cluster: demo
  Host: 10.0.0.2
  Member: pg2
  Receive LSN: 0/6400000
  Receive Lag: 0
  Replay LSN: 0/639E580
  Replay Lag: 0
  Role: Sync Standby
  State: streaming
  TL: 3
- Cluster: demo
  Host: 10.0.0.3
  Member: pg3
  Pending restart: '*'
  Pending restart reason: 'max_connections: 100->200'
  Receive LSN: 0/5A00000
  Receive Lag: 10
  Replay LSN: 0/5000000
  Replay Lag: 20
  Role: Replica
  State: in archive recovery
  TL: 3
  Tags:
    nofailover: true
    zone: a

"#;

const QUO_PRETTY: &str = r#"+ Cluster: quo (initializing) -------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| Member | Host           | Role           | State            | TL | Receive LSN | Lag | Replay LSN | Lag | Pending restart | Pending restart reason                        | Scheduled restart                           | Tags              |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| a      | 127.0.0.1:5432 | Leader         | running          |  1 |             |     |            |     |                 |                                               |                                             |                   |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| b      | 127.0.0.1:5433 | Quorum Standby | streaming        |  1 |    0/A00000 |   0 |   0/A00000 |   0 |                 |                                               | 2030-01-02T03:04:05+00:00 if version < 15.9 | replicatefrom: a  |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| c      | 127.0.0.1:5434 | Quorum Standby | creating replica |    |     unknown |     |    unknown |     |                 |                                               |                                             | replicatefrom: b  |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| d      | 127.0.0.1:5435 | Replica        | stopped          |    |     unknown |     |    unknown |     | *               |                                               |                                             | replicatefrom: zz |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| e      | 127.0.0.1:5436 | Replica        | running          |  1 |     unknown |     |   0/900000 |   1 |                 |                                               |                                             | replicatefrom: b  |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
| f      | 127.0.0.1:5437 | Replica        | streaming        |  1 |    0/900000 |   1 |    unknown |     | *               | a: 1->2                                       |                                             |                   |
|        |                |                |                  |    |             |     |            |     |                 | shared_preload_libraries: [hidden - too long] |                                             |                   |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+-------------------+
 Maintenance mode: on
 Switchover scheduled at: 2030-01-02T03:04:05+00:00
                    from: a
                      to: b
"#;

const QUO_TOPOLOGY: &str = r#"+ Cluster: quo (initializing) -------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
| Member | Host           | Role           | State            | TL | Receive LSN | Lag | Replay LSN | Lag | Pending restart | Pending restart reason                        | Scheduled restart                           | Tags                |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
| a      | 127.0.0.1:5432 | Leader         | running          |  1 |             |     |            |     |                 |                                               |                                             |                     |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
| + b    | 127.0.0.1:5433 | Quorum Standby | streaming        |  1 |    0/A00000 |   0 |   0/A00000 |   0 |                 |                                               | 2030-01-02T03:04:05+00:00 if version < 15.9 | {replicatefrom: a}  |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
|   + c  | 127.0.0.1:5434 | Quorum Standby | creating replica |    |     unknown |     |    unknown |     |                 |                                               |                                             | {replicatefrom: b}  |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
|   + e  | 127.0.0.1:5436 | Replica        | running          |  1 |     unknown |     |   0/900000 |   1 |                 |                                               |                                             | {replicatefrom: b}  |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
| + d    | 127.0.0.1:5435 | Replica        | stopped          |    |     unknown |     |    unknown |     | *               |                                               |                                             | {replicatefrom: zz} |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
| + f    | 127.0.0.1:5437 | Replica        | streaming        |  1 |    0/900000 |   1 |    unknown |     | *               | a: 1->2                                       |                                             |                     |
|        |                |                |                  |    |             |     |            |     |                 | shared_preload_libraries: [hidden - too long] |                                             |                     |
+--------+----------------+----------------+------------------+----+-------------+-----+------------+-----+-----------------+-----------------------------------------------+---------------------------------------------+---------------------+
 Maintenance mode: on
 Switchover scheduled at: 2030-01-02T03:04:05+00:00
                    from: a
                      to: b
"#;

const QUO_JSON: &str = r#"[{"Cluster": "quo", "Member": "a", "Host": "127.0.0.1:5432", "Role": "Leader", "State": "running", "TL": 1}, {"Cluster": "quo", "Member": "b", "Host": "127.0.0.1:5433", "Role": "Quorum Standby", "State": "streaming", "TL": 1, "Receive LSN": "0/A00000", "Receive Lag": 0, "Replay LSN": "0/A00000", "Replay Lag": 0, "Scheduled restart": "2030-01-02T03:04:05+00:00 if version < 15.9", "Tags": {"replicatefrom": "a"}}, {"Cluster": "quo", "Member": "c", "Host": "127.0.0.1:5434", "Role": "Quorum Standby", "State": "creating replica", "Receive LSN": "unknown", "Replay LSN": "unknown", "Tags": {"replicatefrom": "b"}}, {"Cluster": "quo", "Member": "d", "Host": "127.0.0.1:5435", "Role": "Replica", "State": "stopped", "Receive LSN": "unknown", "Replay LSN": "unknown", "Pending restart": "*", "Tags": {"replicatefrom": "zz"}}, {"Cluster": "quo", "Member": "e", "Host": "127.0.0.1:5436", "Role": "Replica", "State": "running", "TL": 1, "Receive LSN": "unknown", "Replay LSN": "0/900000", "Replay Lag": 1, "Tags": {"replicatefrom": "b"}}, {"Cluster": "quo", "Member": "f", "Host": "127.0.0.1:5437", "Role": "Replica", "State": "streaming", "TL": 1, "Receive LSN": "0/900000", "Receive Lag": 1, "Replay LSN": "unknown", "Pending restart": "*", "Pending restart reason": "a: 1->2\nshared_preload_libraries: pg_stat_statements,pg_cron,auto_explain->pg_stat_statements,pg_cron,auto_explain,timescaledb"}]
"#;

const QUO_TSV: &str = r#"Cluster	Member	Host	Role	State	TL	Receive LSN	Receive Lag	Replay LSN	Replay Lag	Pending restart	Pending restart reason	Scheduled restart	Tags
quo	a	127.0.0.1:5432	Leader	running	1								
quo	b	127.0.0.1:5433	Quorum Standby	streaming	1	0/A00000	0	0/A00000	0			2030-01-02T03:04:05+00:00 if version < 15.9	{replicatefrom: a}
quo	c	127.0.0.1:5434	Quorum Standby	creating replica		unknown		unknown					{replicatefrom: b}
quo	d	127.0.0.1:5435	Replica	stopped		unknown		unknown		*			{replicatefrom: zz}
quo	e	127.0.0.1:5436	Replica	running	1	unknown		0/900000	1				{replicatefrom: b}
quo	f	127.0.0.1:5437	Replica	streaming	1	0/900000	1	unknown		*	a: 1->2
shared_preload_libraries: pg_stat_statements,pg_cron,auto_explain->pg_stat_statements,pg_cron,auto_explain,timescaledb		
"#;

const STB_PRETTY: &str = r#"+ Cluster: stb (uninitialized) -----------+-----------+----+-------------+-----+------------+-----+-----------------+------------------------+-------------------+------+
| Member | Host          | Role           | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Pending restart | Pending restart reason | Scheduled restart | Tags |
+--------+---------------+----------------+-----------+----+-------------+-----+------------+-----+-----------------+------------------------+-------------------+------+
| s1     | 10.2.0.1:5432 | Standby Leader | streaming |  1 |             |     |            |     |                 |                        |                   |      |
| s2     | 10.2.0.2:5433 | Replica        | streaming |  1 |    0/A00000 |   0 |   0/800000 |   2 |                 |                        |                   |      |
+--------+---------------+----------------+-----------+----+-------------+-----+------------+-----+-----------------+------------------------+-------------------+------+
"#;

const OLD_PRETTY: &str = r#"+ Cluster: old (uninitialized) ----------+----+-------------+-----+------------+-----+---------------------------+----------------+
| Member | Host | Role    | State        | TL | Receive LSN | Lag | Replay LSN | Lag | Scheduled restart         | Tags           |
+--------+------+---------+--------------+----+-------------+-----+------------+-----+---------------------------+----------------+
| a      |      | Replica |              |    |     unknown |     |    unknown |     |                           |                |
| b      | h2   | Replica | running      |    |     unknown |     |   0/B00000 |   0 |                           |                |
| c      | h3   | Replica | stopped      |    |     unknown |     |    unknown |     |                           |                |
| d      | h4   | Replica | start failed |    |         0/1 |  10 |   0/580000 |   4 |                           | nostream: true |
| e      | h5   | Replica | running      |    |    0/880000 |   2 |   0/980001 |   0 | 2030-01-01T00:00:00+00:00 |                |
| z      | h    | Leader  |              |    |             |     |            |     |                           |                |
+--------+------+---------+--------------+----+-------------+-----+------------+-----+---------------------------+----------------+
"#;

const ZED_TOPOLOGY: &str = r#"+ Cluster: zed (uninitialized) -----+----+-------------+-----+------------+-----+--------------------+
| Member | Host | Role    | State   | TL | Receive LSN | Lag | Replay LSN | Lag | Tags               |
+--------+------+---------+---------+----+-------------+-----+------------+-----+--------------------+
| z      | h3   | Leader  | running |    |             |     |            |     |                    |
| + a    | h1   | Replica | running |    |    0/500000 |   0 |   0/500000 |   0 |                    |
| + b    | h2   | Replica | running |    |     unknown |     |    unknown |     | {replicatefrom: z} |
+--------+------+---------+---------+----+-------------+-----+------------+-----+--------------------+
 Switchover scheduled at: 2030-01-02T01:04:05.500000+00:00
                    from: z
"#;

const ZED_PRETTY: &str = r#"+ Cluster: zed (uninitialized) -----+----+-------------+-----+------------+-----+------------------+
| Member | Host | Role    | State   | TL | Receive LSN | Lag | Replay LSN | Lag | Tags             |
+--------+------+---------+---------+----+-------------+-----+------------+-----+------------------+
| a      | h1   | Replica | running |    |    0/500000 |   0 |   0/500000 |   0 |                  |
| b      | h2   | Replica | running |    |     unknown |     |    unknown |     | replicatefrom: z |
| z      | h3   | Leader  | running |    |             |     |            |     |                  |
+--------+------+---------+---------+----+-------------+-----+------------+-----+------------------+
 Switchover scheduled at: 2030-01-02T01:04:05.500000+00:00
                    from: z
"#;

#[rstest]
#[case("demo", DEMO, Format::Pretty, false, DEMO_PRETTY)]
#[case("demo", DEMO, Format::Tsv, false, DEMO_TSV)]
#[case("demo", DEMO, Format::Yaml, false, DEMO_YAML)]
#[case("quo", QUO, Format::Pretty, false, QUO_PRETTY)]
#[case("quo", QUO, Format::Topology, false, QUO_TOPOLOGY)]
#[case("quo", QUO, Format::Json, false, QUO_JSON)]
#[case("quo", QUO, Format::Tsv, false, QUO_TSV)]
#[case("stb", STB, Format::Pretty, true, STB_PRETTY)]
#[case("old", OLD, Format::Pretty, false, OLD_PRETTY)]
#[case("zed", ZED, Format::Topology, false, ZED_TOPOLOGY)]
#[case("zed", ZED, Format::Pretty, false, ZED_PRETTY)]
fn as_upstream_prints_them(
    #[case] name: &str,
    #[case] keys: Keys,
    #[case] format: Format,
    #[case] extended: bool,
    #[case] expected: &str,
) {
    let cluster = cluster(name, keys);
    let mut printed = super::table(&cluster, format, extended).render(format, "\t");
    if format.is_drawn() {
        printed.push_str(&super::footer(&cluster.view));
    }
    assert_eq!(printed, expected);
}
