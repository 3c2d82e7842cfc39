/*
 * The commands, one file per group. Each is an entry of the table in ctl_root.c.
 */
#ifndef CONCLAVE_CTL_CMD_H
#define CONCLAVE_CTL_CMD_H

#include "ctl/ctl_flags.h"
#include "lib/proto/etcd/rpc.pb-c.h"

#define CTL_STRING(n, i, u)                                                                        \
    {                                                                                              \
        .name = n, .type = CTL_FLAG_STRING, .initial = i, .usage = u                               \
    }
#define CTL_BOOL(n, u)                                                                             \
    {                                                                                              \
        .name = n, .type = CTL_FLAG_BOOL, .initial = "false", .usage = u                           \
    }
#define CTL_INT(n, i, u)                                                                           \
    {                                                                                              \
        .name = n, .type = CTL_FLAG_INT, .initial = i, .usage = u                                  \
    }
#define CTL_FLAGS_END                                                                              \
    {                                                                                              \
        .name = NULL                                                                               \
    }

/* cmd_kv.c */
extern const struct ctl_command cmd_get, cmd_put, cmd_del, cmd_compaction;
/* Requests from parsed arguments, for txn too; they borrow from `a`. Die when they make no sense.
 * may_read_stdin: a missing value is read from standard input. */
void cmd_put_request(const struct ctl_args *a, bool may_read_stdin, Etcdserverpb__PutRequest *ret);
void cmd_get_request(const struct ctl_args *a, Etcdserverpb__RangeRequest *ret);
void cmd_del_request(const struct ctl_args *a, Etcdserverpb__DeleteRangeRequest *ret);

/* cmd_txn.c */
extern const struct ctl_command cmd_txn;
/* One line: 0, or -EINVAL and *ret_error. The compare and what it points to: free nothing, the
 * process ends soon. */
int cmd_txn_parse_compare(const char *line, Etcdserverpb__Compare *ret, char **ret_error);
int cmd_txn_parse_op(const char *line, Etcdserverpb__RequestOp *ret, char **ret_error);

extern const struct ctl_command cmd_lease;           /* cmd_lease.c */
extern const struct ctl_command cmd_watch;           /* cmd_watch.c */
extern const struct ctl_command cmd_lock, cmd_elect; /* cmd_lock.c */

/* cmd_endpoint.c */
extern const struct ctl_command cmd_endpoint;
/* The given endpoints, or with `cluster` the client URLs of all members. Lives with the process. */
size_t cmd_endpoint_list(struct ctl *c, bool cluster, char ***ret);

extern const struct ctl_command cmd_member; /* cmd_member.c */
/* cmd_maintenance.c */
extern const struct ctl_command cmd_alarm, cmd_defrag, cmd_move_leader, cmd_downgrade;
extern const struct ctl_command cmd_auth;        /* cmd_auth.c */
extern const struct ctl_command cmd_user;        /* cmd_user.c */
extern const struct ctl_command cmd_snapshot;    /* cmd_snapshot.c */
extern const struct ctl_command cmd_hashkv_file; /* cmd_hashkv.c */
extern const struct ctl_command cmd_make_mirror; /* cmd_mirror.c */
extern const struct ctl_command cmd_check;       /* cmd_check.c */
/* cmd_role.c */
extern const struct ctl_command cmd_role;
void cmd_role_print(const struct ctl *c, const char *name,
                    const Etcdserverpb__AuthRoleGetResponse *r);

#endif
