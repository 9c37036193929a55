//! Commands of `rabbitmqctl` and `lavinmqctl` that this server has no counterpart for, and what there is instead. They
//! fail: a script has to know that nothing was done.

/// Names, and what to do.
const ABSENT: &[(&[&str], &str)] = &[
    (&["start_app"], "a server is started with `longtail serve`"),
    (
        &["stop_app", "stop", "shutdown"],
        "a server is stopped by SIGTERM to its process, or by its service manager",
    ),
    (
        &["reset", "force_reset", "reset_vhost"],
        "delete_vhost removes everything in a vhost; a data directory is removed while no server uses it",
    ),
    (
        &["set_vm_memory_high_watermark"],
        "set amqp.memory_percent_max in the server's settings",
    ),
    (
        &["set_disk_free_limit"],
        "set amqp.disk_free_bytes_min in the server's settings",
    ),
    (
        &["rotate_logs"],
        "the log goes to standard error: whatever collects it rotates it",
    ),
    (
        &["set_log_level"],
        "start the server with --log-level, or set logging.level in its settings",
    ),
    (
        &["report"],
        "status, list_queues, list_connections and export_definitions have what there is",
    ),
    (
        &["environment"],
        "`longtail config show` prints the settings in force",
    ),
    (
        &["pause_queue"],
        "`longtail pause STREAM TIME` pauses a queue for a while",
    ),
    (
        &["resume_queue"],
        "`longtail pause STREAM 0` lets a paused queue deliver again",
    ),
    (
        &["restart_queue", "restart_vhost"],
        "nothing of a running server has to be restarted",
    ),
    (
        &["definitions"],
        "export_definitions asks a running server for them",
    ),
    (
        &[
            "join_cluster",
            "forget_cluster_node",
            "rename_cluster_node",
            "change_cluster_node_type",
            "update_cluster_nodes",
            "force_boot",
            "add_replica",
            "delete_replica",
            "sync_queue",
            "cancel_sync_queue",
        ],
        "there are no clusters: a server is one node",
    ),
    (
        &["eval", "eval_file", "exec", "remote_shell"],
        "the server is not written in Erlang",
    ),
    (
        &[
            "list_deprecated_features",
            "encode",
            "decode",
            "list_hashes",
            "list_ciphers",
        ],
        "there is no counterpart",
    ),
];

/// What there is instead of a command that is known and absent.
pub(in crate::ctl) fn instead_of(name: &str) -> Option<&'static str> {
    ABSENT
        .iter()
        .find(|(names, _)| names.contains(&name))
        .map(|(_, instead)| *instead)
}
