//! The table of settings. Rows of one section stand together, in the order people write them.

use super::Kind::{
    Address, Addresses, Any, Bool, Bytes, Float, Int, List, Listen, Map, OneOf, Options, Seconds, Switch, Text,
};
use super::{Setting, setting};

const MAX: i64 = i64::MAX;
const LEVELS: &[&str] = &["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
/// `off` and its synonyms are covered by `Switch`.
const WATCHDOG_MODES: &[&str] = &["automatic", "auto", "required", "require", "disable", "disabled"];

/// All settings that are known.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    setting("scope", Text, "name of the cluster").required(),
    setting("namespace", Text, "path in the store under which clusters are kept").default("/service"),
    setting("name", Text, "unique name of this node in the cluster").required(),
    setting("thread_pool_size", Int(5, MAX), "accepted for compatibility, without effect").default("5"),
    setting("thread_stack_size", Int(65536, MAX), "accepted for compatibility, without effect").default("524288"),

    setting("log.type", OneOf(&["plain", "json"]), "form of a log line").default("plain"),
    setting("log.level", OneOf(LEVELS), "least severe level that is logged").default("INFO"),
    setting("log.traceback_level", OneOf(LEVELS), "accepted for compatibility, without effect").default("ERROR"),
    setting("log.format", Any, "pattern of a plain log line, or list of fields of a json one")
        .default("'%(asctime)s %(levelname)s: %(message)s'"),
    setting("log.dateformat", Text, "strftime pattern of asctime"),
    setting("log.static_fields", Map, "fields added to every json log line").default("{}"),
    setting("log.max_queue_size", Int(1, MAX), "log lines that may wait to be written").default("1000"),
    setting("log.dir", Text, "directory of patroni.log; without it lines go to standard error"),
    setting("log.mode", Int(0, 0o777), "permissions of the log file"),
    setting("log.file_num", Int(0, MAX), "rotated log files that are kept").default("4"),
    setting("log.file_size", Int(0, MAX), "bytes after which the log file is rotated").default("25000000"),
    setting("log.loggers", Map, "levels of single loggers").default("{}"),
    setting("log.deduplicate_heartbeat_logs", Bool, "leave out repeated heartbeat lines").default("false"),

    setting("restapi.listen", Listen, "address and port of the REST API").required(),
    setting("restapi.connect_address", Address, "address under which others reach the REST API"),
    setting("restapi.authentication.username", Text, "user name for requests that change something"),
    setting("restapi.authentication.password", Text, "password for requests that change something").secret(),
    setting("restapi.certfile", Text, "PEM certificate; with it the REST API speaks HTTPS"),
    setting("restapi.keyfile", Text, "PEM private key, if it is not in certfile"),
    setting("restapi.keyfile_password", Text, "passphrase of keyfile").secret(),
    setting("restapi.cafile", Text, "PEM bundle of authorities that client certificates are checked against"),
    setting("restapi.ciphers", Text, "permitted cipher suites"),
    setting("restapi.verify_client", OneOf(&["none", "optional", "required"]), "when client certificates are checked")
        .default("none"),
    setting("restapi.allowlist", List, "addresses, networks and host names that may change something").default("[]"),
    setting("restapi.allowlist_include_members", Bool, "members of the cluster may change something").default("false"),
    setting("restapi.http_extra_headers", Map, "headers added to every answer").default("{}"),
    setting("restapi.https_extra_headers", Map, "headers added to every answer over HTTPS").default("{}"),
    setting("restapi.request_queue_size", Int(0, 4096), "connections that may wait to be accepted").default("5"),
    setting("restapi.thread_pool_size", Int(5, MAX), "accepted for compatibility, without effect").default("5"),
    setting("restapi.server_tokens", OneOf(&["original", "minimal", "productonly"]), "what the Server header tells")
        .default("original"),

    setting("ctl.insecure", Bool, "patronictl does not verify certificates").default("false"),
    setting("ctl.cacert", Text, "PEM bundle of authorities that certificates of REST APIs are checked against"),
    setting("ctl.certfile", Text, "PEM client certificate of patronictl"),
    setting("ctl.keyfile", Text, "PEM private key of the client certificate"),
    setting("ctl.keyfile_password", Text, "passphrase of keyfile").secret(),
    setting("ctl.authentication.username", Text, "user name that patronictl gives to REST APIs"),
    setting("ctl.authentication.password", Text, "password that patronictl gives to REST APIs").secret(),

    setting("bootstrap.dcs.ttl", Seconds(20), "lifetime of the leader lock").default("30"),
    setting("bootstrap.dcs.loop_wait", Seconds(1), "longest pause between two looks at the cluster").default("10"),
    setting("bootstrap.dcs.retry_timeout", Seconds(3), "how long failing operations are retried").default("10"),
    setting("bootstrap.dcs.maximum_lag_on_failover", Bytes(0), "how far a standby may lag and still be promoted")
        .default("1048576"),
    setting("bootstrap.dcs.maximum_lag_on_syncnode", Bytes(-1), "lag at which a synchronous standby is replaced")
        .default("-1"),
    setting("bootstrap.dcs.max_timelines_history", Int(0, MAX), "rows of history that are kept; 0: all").default("0"),
    setting("bootstrap.dcs.{primary_start_timeout,master_start_timeout}", Seconds(0),
        "how long a failed primary may take to come back before a failover").default("300"),
    setting("bootstrap.dcs.{primary_stop_timeout,master_stop_timeout}", Seconds(0),
        "how long a primary may take to stop in synchronous mode; 0: no limit").default("0"),
    setting("bootstrap.dcs.primary_race_backoff", Seconds(0), "pause before a node races for the lock").default("0"),
    setting("bootstrap.dcs.synchronous_mode", Switch(&["quorum"]), "whether synchronous replication is managed")
        .default("off"),
    setting("bootstrap.dcs.synchronous_mode_strict", Bool, "hold writes while there is no synchronous standby")
        .default("false"),
    setting("bootstrap.dcs.synchronous_node_count", Int(1, 1000), "how many synchronous standbys").default("1"),
    setting("bootstrap.dcs.failsafe_mode", Bool, "a primary that all members answer may outlive the store")
        .default("false"),
    setting("bootstrap.dcs.check_timeline", Bool, "only nodes on the latest timeline may be promoted").default("false"),
    setting("bootstrap.dcs.pause", Bool, "maintenance: nothing is managed").default("false"),
    setting("bootstrap.dcs.member_slots_ttl", Seconds(0), "how long slots of absent members are kept")
        .default("1800"),
    setting("bootstrap.dcs.{slots,permanent_slots,permanent_replication_slots}", Map, "slots that are always kept")
        .default("{}"),
    setting("bootstrap.dcs.ignore_slots", List, "slots that are not managed").default("[]"),
    setting("bootstrap.dcs.standby_cluster.host", Text, "address of the remote primary"),
    setting("bootstrap.dcs.standby_cluster.port", Any, "port of the remote primary"),
    setting("bootstrap.dcs.standby_cluster.{primary_slot_name,restore_command,archive_cleanup_command}", Text,
        "how the standby leader follows the remote primary"),
    setting("bootstrap.dcs.standby_cluster.recovery_min_apply_delay", Any, "how far the standby leader stays behind"),
    setting("bootstrap.dcs.standby_cluster.create_replica_methods", List, "how the standby leader is created"),
    setting("bootstrap.method", Text, "name of the sub-section of a custom bootstrap").default("initdb"),
    setting("bootstrap.initdb", Options, "options of initdb"),
    setting("bootstrap.pg_hba", List, "lines added to pg_hba.conf after the bootstrap"),
    setting("bootstrap.{post_bootstrap,post_init}", Text, "command that is run once in the new cluster"),
    setting("bootstrap.users", Any, "no longer supported: create users with post_bootstrap"),

    setting("postgresql.listen", Listen, "addresses and port of PostgreSQL").required(),
    setting("postgresql.connect_address", Address, "address under which others reach PostgreSQL"),
    setting("postgresql.proxy_address", Address, "address of a proxy in front of PostgreSQL"),
    setting("postgresql.database", Text, "database of local connections").default("postgres"),
    setting("postgresql.data_dir", Text, "data directory").required(),
    setting("postgresql.config_dir", Text, "directory of configuration files, if not data_dir"),
    setting("postgresql.config_base_name", Text, "base name of configuration files").default("postgresql"),
    setting("postgresql.custom_conf", Text, "configuration file included in place of the base file"),
    setting("postgresql.bin_dir", Text, "directory of the PostgreSQL programs; empty: PATH").default("''"),
    setting("postgresql.bin_name.{pg_ctl,initdb,pg_controldata,pg_basebackup,postgres,pg_isready,pg_rewind}", Text,
        "name of a PostgreSQL program"),
    setting("postgresql.pgpass", Text, "password file that is written for replication"),
    setting("postgresql.authentication.{superuser,replication,rewind}.username", Text, "role name"),
    setting("postgresql.authentication.{superuser,replication,rewind}.password", Text, "password of the role").secret(),
    setting("postgresql.authentication.{superuser,replication,rewind}.sslpassword", Text, "passphrase of sslkey")
        .secret(),
    setting("postgresql.authentication.{superuser,replication,rewind}.{sslmode,sslcert,sslkey,sslrootcert,sslcrl,\
        sslcrldir,gssencmode,channel_binding,sslnegotiation}", Text, "connection parameter of libpq"),
    setting("postgresql.callbacks.{on_start,on_stop,on_restart,on_reload,on_role_change}", Text,
        "script that is told about a change"),
    setting("postgresql.{create_replica_methods,create_replica_method}", List, "how replicas are created")
        .default("[basebackup]"),
    setting("postgresql.recovery_conf", Map, "additional recovery parameters").default("{}"),
    setting("postgresql.{parameters,parameters_primary,parameters_replica,parameters_standby_leader}", Map,
        "PostgreSQL parameters, for all roles or for one"),
    setting("postgresql.{pg_hba,pg_hba_primary,pg_hba_replica,pg_hba_standby_leader}", List,
        "lines of pg_hba.conf, for all roles or for one"),
    setting("postgresql.{pg_ident,pg_ident_primary,pg_ident_replica,pg_ident_standby_leader}", List,
        "lines of pg_ident.conf, for all roles or for one"),
    setting("postgresql.pg_ctl_timeout", Seconds(0), "how long a start may take").default("60"),
    setting("postgresql.use_pg_rewind", Bool, "rejoin a former primary with pg_rewind").default("false"),
    setting("postgresql.use_slots", Bool, "replicate through slots; dynamic configuration only").default("true"),
    setting("postgresql.{rewind,basebackup}", Options, "options of pg_rewind and pg_basebackup"),
    setting("postgresql.{remove_data_directory_on_rewind_failure,remove_data_directory_on_diverged_timelines}", Bool,
        "make a new replica of a node that cannot be rewound").default("false"),
    setting("postgresql.{use_unix_socket,use_unix_socket_repl}", Bool, "connect locally over a socket").default("false"),
    setting("postgresql.krbsrvname", Text, "Kerberos service name"),
    setting("postgresql.{pre_promote,before_stop}", Text, "command that is run before a promotion or stop"),

    setting("watchdog.mode", Switch(WATCHDOG_MODES), "whether a kernel watchdog guards the primary")
        .default("automatic"),
    setting("watchdog.device", Text, "watchdog device").default("/dev/watchdog"),
    setting("watchdog.safety_margin", Int(-1, MAX), "seconds between the watchdog's timeout and the end of the lease")
        .default("5"),
    setting("watchdog.driver", Text, "watchdog driver").default("default"),

    setting("sentinel.mode", Switch(&["automatic", "required"]),
        "whether a separate process ends PostgreSQL when the agent hangs").default("automatic"),

    setting("tags.{nofailover,nosync,clonefrom,noloadbalance,nostream}", Bool, "what this node is not, or is, used for"),
    setting("tags.{failover_priority,sync_priority}", Int(i64::MIN, MAX), "who is preferred; 0 or less: never")
        .default("1"),
    setting("tags.replicatefrom", Text, "member that this node replicates from"),

    setting("{etcd,etcd3}.host", Address, "address of the store").default("127.0.0.1:2379"),
    setting("{etcd,etcd3}.hosts", Addresses, "addresses of the store"),
    setting("{etcd,etcd3}.{url,proxy}", Text, "address of the store, as a URL"),
    setting("{etcd,etcd3}.{srv,discovery_srv,srv_domain,srv_suffix}", Text, "DNS name to discover the store with"),
    setting("{etcd,etcd3}.port", Int(1, 65535), "port, where host has none").default("2379"),
    setting("{etcd,etcd3}.protocol", OneOf(&["http", "https"]), "how the store is spoken to").default("http"),
    setting("{etcd,etcd3}.use_proxies", Bool, "hosts are proxies: do not ask them for members").default("false"),
    setting("{etcd,etcd3}.username", Text, "user name for the store"),
    setting("{etcd,etcd3}.password", Text, "password for the store").secret(),
    setting("{etcd,etcd3}.{cacert,cert,key}", Text, "PEM files for the store"),
    setting("{etcd,etcd3}.version_prefix", Text, "path of the API; found out by itself"),

    setting("consul.{host,url,scheme,cacert,cert,key,dc,service_check_interval,service_check_tls_server_name}", Text,
        "how Consul is reached and used"),
    setting("consul.token", Text, "ACL token").secret(),
    setting("consul.port", Int(1, 65535), "port of the store"),
    setting("consul.{verify,register_service}", Bool, "whether certificates are verified, whether a service is kept"),
    setting("consul.{checks,service_tags}", List, "health checks of the session, tags of the service"),
    setting("consul.consistency", OneOf(&["default", "consistent", "stale"]), "consistency of reads"),
    setting("{zookeeper,exhibitor}.hosts", Addresses, "addresses of the store"),
    setting("{zookeeper,exhibitor}.{use_ssl,verify}", Bool, "whether TLS is used and certificates are verified"),
    setting("{zookeeper,exhibitor}.{cacert,cert,key}", Text, "PEM files for the store"),
    setting("{zookeeper,exhibitor}.key_password", Text, "passphrase of key").secret(),
    setting("{zookeeper,exhibitor}.set_acls", Map, "access lists of nodes that are made"),
    setting("{zookeeper,exhibitor}.auth_data", Map, "credentials by scheme").secret(),
    setting("exhibitor.port", Int(1, 65535), "port of Exhibitor"),
    setting("exhibitor.poll_interval", Seconds(0), "how often Exhibitor is asked for the hosts").default("300"),
    setting("kubernetes.{labels,bootstrap_labels}", Map, "labels of the cluster's objects"),
    setting("kubernetes.{namespace,scope_label,role_label,leader_label_value,follower_label_value,\
        standby_leader_label_value,tmp_role_label,pod_ip,cacert,context}", Text, "names in Kubernetes"),
    setting("kubernetes.{use_endpoints,bypass_api_service}", Bool, "how Kubernetes is used"),
    setting("kubernetes.{ports,retriable_http_codes}", List, "how Kubernetes is used"),
    setting("raft.{self_addr,bind_addr}", Address, "address of the built-in store on this node"),
    setting("raft.partner_addrs", Addresses, "addresses of the built-in store on other nodes"),
    setting("raft.data_dir", Text, "directory of the built-in store"),
    setting("raft.password", Text, "password of the built-in store").secret(),
    setting("raft.{min_timeout,max_timeout,connection_timeout,append_entries_period,connection_retry_time,\
        leader_fallback_timeout}", Float, "seconds that the built-in store waits"),
    setting("citus.group", Int(0, MAX), "Citus group; 0 is the coordinator"),
    setting("citus.database", Text, "Citus database"),
];
