//! The table of settings. Rows of one section stand together, in the order people write them.

use super::Kind::{
    Address, Addresses, Any, Bool, Bytes, Float, Int, List, Listen, Map, OneOf, Options, Seconds, Switch, Text,
};
use super::{Applies, OURS, Section, Setting, setting};

const MAX: i64 = i64::MAX;
/// Most a parameter that counts processes or slots may be (PostgreSQL documentation, chapter 20).
const COUNT_MAX: i64 = 262_143;
const LEVELS: &[&str] = &["DEBUG", "INFO", "WARNING", "WARN", "ERROR", "CRITICAL", "FATAL"];
/// `off` and its synonyms are covered by `Switch`.
const WATCHDOG_MODES: &[&str] = &["automatic", "auto", "required", "require", "disable", "disabled"];

const fn section(path: &'static str, applies: Applies, help: &'static str) -> Section {
    Section { path, applies, help }
}

/// The sections, in the order of the documentation. Of several that hold a setting the longest counts.
pub const SECTIONS: &[Section] = &[
    section("", Applies::Restart, "Settings at the top level."),
    section("log", Applies::Reload, "What is logged, how, and where to."),
    section("restapi", Applies::Reload, "The REST API: health checks, monitoring, operations."),
    section(
        "ctl",
        Applies::Reload,
        "How `patronictl`, and nodes among themselves, speak to REST APIs. What is missing \
        here is taken from `restapi`.",
    ),
    section(
        "bootstrap",
        Applies::NewCluster,
        "How a new cluster is made. Without this section a node never makes one; \
        once the cluster exists the section has no effect.",
    ),
    section(
        "bootstrap.dcs",
        Applies::Dynamic,
        "The dynamic configuration that all nodes of a cluster share: here is \
        what a new cluster begins with; `patronictl edit-config` changes it later. It may also hold \
        `postgresql.parameters` and most other settings of the section `postgresql`.",
    ),
    section(
        "postgresql",
        Applies::Reload,
        "This node's PostgreSQL. Settings here override those of the same name in \
        the dynamic configuration, except for the parameters that all nodes must agree on and `use_slots`.",
    ),
    section("watchdog", Applies::Restart, "The kernel's watchdog, which resets the machine when the node hangs."),
    section("sentinel", Applies::Restart, "A separate process that ends PostgreSQL when the node hangs."),
    section("tags", Applies::Reload, "What this node is used for. Tags of other names are published as they are."),
    section("etcd", Applies::Restart, "The store etcd over its version 2 interface."),
    section("etcd3", Applies::Restart, "The store etcd."),
    section("consul", Applies::Restart, "The store Consul."),
    section("zookeeper", Applies::Restart, "The store ZooKeeper."),
    section("exhibitor", Applies::Restart, "The store ZooKeeper, found through Exhibitor."),
    section("kubernetes", Applies::Restart, "The store Kubernetes."),
    section("raft", Applies::Restart, "The built-in store."),
    section("citus", Applies::Restart, "The place of this cluster among those of a Citus database."),
];

/// All settings that are known.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("scope", Text, "name of the cluster").required().env().since("0.75"),
    setting("namespace", Text, "path in the store under which clusters are kept").default("/service").env(),
    setting("name", Text, "unique name of this node in the cluster").required().env(),
    setting("thread_pool_size", Int(5, MAX), "accepted for compatibility, without effect").default("5").env()
        .since("4.1.1"),
    setting("thread_stack_size", Int(65536, MAX), "accepted for compatibility, without effect").default("524288").env(),

    setting("log.type", OneOf(&["plain", "json"]), "form of a log line").default("plain").env().since("3.3.0"),
    setting("log.level", OneOf(LEVELS), "least severe level that is logged").default("INFO").env().since("1.5.4"),
    setting("log.traceback_level", OneOf(LEVELS), "accepted for compatibility, without effect: log lines hold no \
        tracebacks").default("ERROR").env().since("1.6.2"),
    setting("log.format", Any, "pattern of a log line; for json also a list of fields, renamed as `field: name`")
        .default("'%(asctime)s %(levelname)s: %(message)s'").env().since("1.5.4"),
    setting("log.dateformat", Text, "strftime pattern of asctime").env().since("1.5.4"),
    setting("log.static_fields", Map, "fields added to every json log line").default("{}").env().since("3.3.0"),
    setting("log.max_queue_size", Int(1, 1_000_000), "log lines that may wait to be written; more are dropped and \
        counted").default("1000").env().since("1.6.0"),
    setting("log.dir", Text, "directory of patroni.log; without it lines go to standard error").env().since("1.5.4"),
    setting("log.mode", Int(0, 0o777), "permissions of the log file").env().since("4.0.0"),
    setting("log.file_num", Int(0, 10_000), "rotated log files that are kept").default("4").env().since("1.5.4"),
    setting("log.file_size", Int(0, MAX), "bytes after which the log file is rotated; 0: never").default("25000000")
        .env().since("1.5.4"),
    setting("log.loggers", Map, "levels of single loggers, such as `patroni.postgresql: DEBUG`").default("{}").env()
        .since("1.5.4"),
    setting("log.deduplicate_heartbeat_logs", Bool, "leave out repeated heartbeat lines").default("false").env()
        .since("4.1.0"),

    setting("restapi.listen", Listen, "address and port of the REST API").required().env().since("0.75"),
    setting("restapi.connect_address", Address, "address under which others reach the REST API").env().since("0.75"),
    setting("restapi.authentication.username", Text, "user name for requests that change something").env(),
    setting("restapi.authentication.password", Text, "password for requests that change something").env().secret(),
    setting("restapi.certfile", Text, "PEM certificate; with it the REST API speaks HTTPS").env().since("0.75"),
    setting("restapi.keyfile", Text, "PEM private key, if it is not in certfile").env().since("0.75"),
    setting("restapi.keyfile_password", Text, "passphrase of keyfile").env().secret(),
    setting("restapi.cafile", Text, "PEM bundle of authorities that client certificates are checked against").env(),
    setting("restapi.ciphers", Text, "permitted cipher suites").env(),
    setting("restapi.verify_client", OneOf(&["none", "optional", "required"]), "when client certificates are checked")
        .default("none").env().since("1.6.1"),
    setting("restapi.allowlist", List, "addresses, networks and host names that may change something").default("[]")
        .env().since("2.1.0"),
    setting("restapi.allowlist_include_members", Bool, "members of the cluster may change something").default("false")
        .env().since("2.1.0"),
    setting("restapi.http_extra_headers", Map, "headers added to every answer").default("{}").env().since("2.0.0"),
    setting("restapi.https_extra_headers", Map, "headers added to every answer over HTTPS").default("{}").env()
        .since("2.0.0"),
    setting("restapi.request_queue_size", Int(0, 4096), "connections that may wait to be accepted").default("5").env(),
    setting("restapi.thread_pool_size", Int(5, MAX), "accepted for compatibility, without effect").default("5").env()
        .since("4.1.1"),
    setting("restapi.server_tokens", OneOf(&["original", "minimal", "productonly"]), "what the Server header tells")
        .default("original").env().since("4.1.0"),

    setting("ctl.insecure", Bool, "patronictl does not verify certificates").default("false").env().since("1.5.0"),
    setting("ctl.cacert", Text, "PEM bundle of authorities that certificates of REST APIs are checked against").env()
        .since("1.5.0"),
    setting("ctl.certfile", Text, "PEM client certificate of patronictl").env().since("1.5.0"),
    setting("ctl.keyfile", Text, "PEM private key of the client certificate").env().since("1.5.0"),
    setting("ctl.keyfile_password", Text, "passphrase of keyfile").env().secret().since("2.1.3"),
    setting("ctl.authentication.username", Text, "user name that patronictl gives to REST APIs").env(),
    setting("ctl.authentication.password", Text, "password that patronictl gives to REST APIs").env().secret(),

    setting("bootstrap.dcs.ttl", Seconds(20), "lifetime of the leader lock").default("30").since("0.75"),
    setting("bootstrap.dcs.loop_wait", Seconds(1), "longest pause between two looks at the cluster").default("10")
        .since("0.75"),
    setting("bootstrap.dcs.retry_timeout", Seconds(3), "how long failing operations are retried").default("10"),
    setting("bootstrap.dcs.allow_short_ttl", Bool, "ttl may be as low as 3 and retry_timeout as low as 1; only where \
        all nodes are this program: others go on with a ttl of 20").default("false").since(OURS),
    setting("bootstrap.dcs.maximum_lag_on_failover", Bytes(0), "how far a standby may lag and still be promoted")
        .default("1048576").since("0.75"),
    setting("bootstrap.dcs.maximum_lag_on_syncnode", Bytes(-1), "lag at which a synchronous standby is replaced")
        .default("-1"),
    setting("bootstrap.dcs.max_timelines_history", Int(0, MAX), "rows of history that are kept; 0: all").default("0")
        .since("1.6.5"),
    setting("bootstrap.dcs.primary_start_timeout", Seconds(0),
        "how long a failed primary may take to come back before a failover").default("300")
        .alias(&["master_start_timeout"]).since("1.2"),
    setting("bootstrap.dcs.primary_stop_timeout", Seconds(0),
        "how long a primary may take to stop in synchronous mode; 0: no limit").default("0")
        .alias(&["master_stop_timeout"]).since("1.6.5"),
    setting("bootstrap.dcs.primary_race_backoff", Seconds(0), "pause before a node races for the lock").default("0"),
    setting("bootstrap.dcs.synchronous_mode", Switch(&["quorum"]), "whether synchronous replication is managed")
        .default("off").since("1.2"),
    setting("bootstrap.dcs.synchronous_mode_strict", Bool, "hold writes while there is no synchronous standby")
        .default("false").since("1.3"),
    setting("bootstrap.dcs.synchronous_node_count", Int(1, 1000), "how many synchronous standbys").default("1"),
    setting("bootstrap.dcs.failsafe_mode", Bool, "a primary that all members answer may outlive the store")
        .default("false").since("3.0.0"),
    setting("bootstrap.dcs.check_timeline", Bool, "only nodes on the latest timeline may be promoted").default("false")
        .since("1.5.4"),
    setting("bootstrap.dcs.pause", Bool, "maintenance: nothing is managed").default("false").since("1.1"),
    setting("bootstrap.dcs.member_slots_ttl", Seconds(0), "how long slots of absent members are kept")
        .default("1800").since("4.0.0"),
    setting("bootstrap.dcs.slots", Map, "slots that are always kept").default("{}")
        .alias(&["permanent_slots", "permanent_replication_slots"]).since("1.5.1"),
    setting("bootstrap.dcs.ignore_slots", List, "slots that are not managed").default("[]"),
    setting("bootstrap.dcs.standby_cluster.host", Text, "address of the remote primary").since("1.5.0"),
    setting("bootstrap.dcs.standby_cluster.port", Int(1, 65535), "port of the remote primary").since("1.5.0"),
    setting("bootstrap.dcs.standby_cluster.{primary_slot_name,restore_command,archive_cleanup_command}", Text,
        "how the standby leader follows the remote primary").since("1.5.0"),
    setting("bootstrap.dcs.standby_cluster.recovery_min_apply_delay", Any, "how far the standby leader stays behind")
        .since("1.5.0"),
    setting("bootstrap.dcs.standby_cluster.create_replica_methods", List, "how the standby leader is created")
        .since("1.5.0"),
    setting("bootstrap.method", Text, "name of the sub-section of a custom bootstrap").default("initdb").since("1.3"),
    setting("bootstrap.initdb", Options, "options of initdb").since("1.0"),
    setting("bootstrap.pg_hba", List, "lines added to pg_hba.conf after the bootstrap").since("1.0"),
    setting("bootstrap.post_bootstrap", Text, "command that is run once in the new cluster").alias(&["post_init"])
        .since("1.2"),
    setting("bootstrap.admin.username", Text, "role that is created with CREATEDB and CREATEROLE").since(OURS),
    setting("bootstrap.admin.password", Text, "its password").secret().since(OURS),
    setting("bootstrap.users", Any, "no longer supported: create users with post_bootstrap, or one with admin"),

    setting("postgresql.listen", Listen, "addresses and port of PostgreSQL").required().env().since("0.75")
        .applies(Applies::PostgresRestart),
    setting("postgresql.connect_address", Address, "address under which others reach PostgreSQL").env().since("0.75"),
    setting("postgresql.proxy_address", Address, "address of a proxy in front of PostgreSQL").env(),
    setting("postgresql.database", Text, "database of local connections").default("postgres").env(),
    setting("postgresql.data_dir", Text, "data directory").required().env().since("0.75").applies(Applies::Restart),
    setting("postgresql.config_dir", Text, "directory of configuration files, if not data_dir").env().since("1.3")
        .applies(Applies::Restart),
    setting("postgresql.config_base_name", Text, "base name of configuration files").default("postgresql")
        .applies(Applies::Restart),
    setting("postgresql.custom_conf", Text, "configuration file included in place of the base file").since("1.1"),
    setting("postgresql.bin_dir", Text, "directory of the PostgreSQL programs; empty: PATH").default("''").env()
        .since("1.1"),
    setting("postgresql.bin_name.{pg_ctl,initdb,pg_controldata,pg_basebackup,postgres,pg_isready,pg_rewind}", Text,
        "name of a PostgreSQL program").env(),
    setting("postgresql.pgpass", Text, "password file that is written for replication").default("~/pgpass").env()
        .since("0.75"),
    setting("postgresql.authentication.{superuser,replication,rewind}.username", Text, "role name").env(),
    setting("postgresql.authentication.{superuser,replication,rewind}.password", Text, "password of the role").env()
        .secret(),
    setting("postgresql.authentication.{superuser,replication,rewind}.sslpassword", Text, "passphrase of sslkey").env()
        .secret(),
    setting("postgresql.authentication.{superuser,replication,rewind}.{sslmode,sslcert,sslkey,sslrootcert,sslcrl,\
        sslcrldir,gssencmode,channel_binding,sslnegotiation}", Text, "connection parameter of libpq").env()
        .since("1.6.1"),
    setting("postgresql.callbacks.{on_start,on_stop,on_restart,on_reload,on_role_change}", Text,
        "script that is told about a change").since("0.75"),
    setting("postgresql.create_replica_methods", List, "how replicas are created").default("[basebackup]")
        .alias(&["create_replica_method"]).since("0.75"),
    setting("postgresql.recovery_conf", Map, "additional recovery parameters").default("{}").since("0.75"),
    setting("postgresql.parameters", Map, "PostgreSQL parameters").since("0.75"),
    setting("postgresql.{parameters_primary,parameters_replica,parameters_standby_leader}", Map,
        "PostgreSQL parameters for one role"),
    setting("postgresql.parameters.max_connections", Int(1, COUNT_MAX), "the same for all nodes: dynamic only")
        .default("100"),
    setting("postgresql.parameters.max_locks_per_transaction", Int(10, 2_147_483_647),
        "the same for all nodes: dynamic only").default("64"),
    setting("postgresql.parameters.{max_prepared_transactions,max_replication_slots,max_wal_senders,\
        max_worker_processes}", Int(0, COUNT_MAX), "the same for all nodes: dynamic only"),
    setting("postgresql.parameters.unix_socket_directories", Text, "directories of the sockets, separated by commas"),
    setting("postgresql.pg_hba", List, "all lines of pg_hba.conf").since("1.3"),
    setting("postgresql.{pg_hba_primary,pg_hba_replica,pg_hba_standby_leader}", List,
        "all lines of pg_hba.conf for one role"),
    setting("postgresql.pg_ident", List, "all lines of pg_ident.conf").since("1.6.0"),
    setting("postgresql.{pg_ident_primary,pg_ident_replica,pg_ident_standby_leader}", List,
        "all lines of pg_ident.conf for one role"),
    setting("postgresql.pg_ctl_timeout", Seconds(0), "how long a start may take").default("60"),
    setting("postgresql.use_pg_rewind", Bool, "rejoin a former primary with pg_rewind").default("false"),
    setting("postgresql.use_slots", Bool, "replicate through slots; dynamic configuration only").default("true")
        .since("0.75"),
    setting("postgresql.basebackup", Options, "options of pg_basebackup").since("1.4.4"),
    setting("postgresql.rewind", Options, "options of pg_rewind"),
    setting("postgresql.remove_data_directory_on_rewind_failure", Bool,
        "make a new replica of a node whose rewind failed").default("false"),
    setting("postgresql.remove_data_directory_on_diverged_timelines", Bool,
        "make a new replica of a node that needs a rewind and cannot have one").default("false").since("1.5.5"),
    setting("postgresql.use_unix_socket", Bool, "connect locally over a socket").default("false").since("1.3"),
    setting("postgresql.use_unix_socket_repl", Bool, "replicate locally over a socket").default("false"),
    setting("postgresql.krbsrvname", Text, "Kerberos service name").since("1.6.0"),
    setting("postgresql.{pre_promote,before_stop}", Text, "command that is run before a promotion or stop"),

    setting("watchdog.mode", Switch(WATCHDOG_MODES), "whether a kernel watchdog guards the primary")
        .default("automatic").since("1.3"),
    setting("watchdog.device", Text, "watchdog device").default("/dev/watchdog").since("1.3"),
    setting("watchdog.safety_margin", Int(-1, MAX),
        "seconds between the watchdog's timeout and the end of the lease; -1: half of ttl").default("5").since("1.3"),
    setting("watchdog.driver", Text, "watchdog driver").default("default").since("1.3"),

    setting("sentinel.mode", Switch(&["automatic", "required"]),
        "whether a separate process ends PostgreSQL when the agent hangs").default("automatic").env().since(OURS),

    setting("tags.{nofailover,clonefrom,noloadbalance}", Bool, "what this node is not, or is, used for").since("0.75"),
    setting("tags.nosync", Bool, "never a synchronous standby"),
    setting("tags.nostream", Bool, "recovers from the archive alone").since("3.3.0"),
    setting("tags.failover_priority", Int(i64::MIN, MAX), "who is preferred as leader; 0 or less: never").default("1")
        .since("3.2.0"),
    setting("tags.sync_priority", Int(i64::MIN, MAX), "who is preferred as synchronous standby; 0 or less: never")
        .default("1").since("4.1.0"),
    setting("tags.replicatefrom", Text, "member that this node replicates from").since("0.75"),

    setting("{etcd,etcd3}.host", Address, "address of the store").default("127.0.0.1:2379").env().since("0.75"),
    setting("{etcd,etcd3}.hosts", Addresses, "addresses of the store").env().since("1.4"),
    setting("{etcd,etcd3}.{url,proxy}", Text, "address of the store, as a URL").env(),
    setting("{etcd,etcd3}.srv", Text, "DNS domain to discover the store in").env()
        .alias(&["discovery_srv", "srv_domain"]),
    setting("{etcd,etcd3}.srv_suffix", Text, "name of one store of several in that domain").env().since("2.1.1"),
    setting("{etcd,etcd3}.port", Int(1, 65535), "port, where host has none").default("2379").env(),
    setting("{etcd,etcd3}.protocol", OneOf(&["http", "https"]), "how the store is spoken to").default("http").env(),
    setting("{etcd,etcd3}.use_proxies", Bool, "hosts are proxies: do not ask them for members").default("false").env()
        .since("1.5.6"),
    setting("{etcd,etcd3}.username", Text, "user name for the store").env(),
    setting("{etcd,etcd3}.password", Text, "password for the store").env().secret(),
    setting("{etcd,etcd3}.{cacert,cert,key}", Text, "PEM files for the store").env(),
    setting("{etcd,etcd3}.version_prefix", Text, "path of the API; found out by itself"),

    setting("consul.{host,url,scheme,cacert,cert,key,dc,service_check_interval,service_check_tls_server_name}", Text,
        "how Consul is reached and used").env(),
    setting("consul.token", Text, "ACL token").env().secret(),
    setting("consul.port", Int(1, 65535), "port of the store").env(),
    setting("consul.{verify,register_service}", Bool, "whether certificates are verified, whether a service is kept")
        .env(),
    setting("consul.{checks,service_tags}", List, "health checks of the session, tags of the service").env(),
    setting("consul.consistency", OneOf(&["default", "consistent", "stale"]), "consistency of reads").env()
        .since("1.6.0"),
    setting("{zookeeper,exhibitor}.hosts", Addresses, "addresses of the store").env().since("0.75"),
    setting("{zookeeper,exhibitor}.{use_ssl,verify}", Bool, "whether TLS is used and certificates are verified").env()
        .since("2.0.0"),
    setting("{zookeeper,exhibitor}.{cacert,cert,key}", Text, "PEM files for the store").env().since("2.0.0"),
    setting("{zookeeper,exhibitor}.key_password", Text, "passphrase of key").env().secret().since("2.0.0"),
    setting("{zookeeper,exhibitor}.set_acls", Map, "access lists of nodes that are made").env().since("2.1.2"),
    setting("{zookeeper,exhibitor}.auth_data", Map, "credentials by scheme").env().secret().since("3.3.0"),
    setting("exhibitor.port", Int(1, 65535), "port of Exhibitor").env().since("0.75"),
    setting("exhibitor.poll_interval", Seconds(0), "how often Exhibitor is asked for the hosts").default("300").env()
        .since("0.75"),
    setting("kubernetes.labels", Map, "labels of the cluster's objects").env().since("1.4"),
    setting("kubernetes.bootstrap_labels", Map, "labels of a pod while it is made").env().since("4.1.0"),
    setting("kubernetes.{namespace,scope_label,role_label,context}", Text, "names in Kubernetes").env().since("1.4"),
    setting("kubernetes.{leader_label_value,follower_label_value,standby_leader_label_value}", Text,
        "values of the role's label").env().since("3.1.0"),
    setting("kubernetes.{tmp_role_label,pod_ip}", Text, "names in Kubernetes").env(),
    setting("kubernetes.cacert", Text, "PEM bundle of the API server's authorities").env().since("2.1.1"),
    setting("kubernetes.use_endpoints", Bool, "keep the cluster in endpoints in place of config maps").env()
        .since("1.4"),
    setting("kubernetes.bypass_api_service", Bool, "speak to API servers directly").env().since("2.0.0"),
    setting("kubernetes.ports", List, "ports of the endpoints").env().since("1.4"),
    setting("kubernetes.retriable_http_codes", Any, "answers of the API server after which it is asked again").env(),
    setting("raft.{self_addr,bind_addr}", Address, "address of the built-in store on this node").env().since("2.0.0"),
    setting("raft.partner_addrs", Addresses, "addresses of the built-in store on other nodes").env().since("2.0.0"),
    setting("raft.data_dir", Text, "directory of the built-in store").env().since("2.0.0"),
    setting("raft.password", Text, "password of the built-in store").env().secret().since("2.0.0"),
    setting("raft.{min_timeout,max_timeout,connection_timeout,append_entries_period,connection_retry_time,\
        leader_fallback_timeout}", Float, "seconds that the built-in store waits").env().since("2.0.0"),
    setting("citus.group", Int(0, MAX), "Citus group; 0 is the coordinator").env().since("3.0.0"),
    setting("citus.database", Text, "Citus database").env().since("3.0.0"),
];
