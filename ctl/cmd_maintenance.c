/* alarm, defrag, move-leader, downgrade. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/print.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

/* ---- alarm ---- */

static const char *alarm_name(Etcdserverpb__AlarmType type)
{
    return type == ETCDSERVERPB__ALARM_TYPE__NOSPACE   ? "NOSPACE"
           : type == ETCDSERVERPB__ALARM_TYPE__CORRUPT ? "CORRUPT"
                                                       : "NONE";
}

static void print_alarms(const struct ctl *c, const Etcdserverpb__AlarmResponse *r)
{
    if (print_encoded_or_lines(c, r))
        return;
    if (c->format == CTL_FORMAT_FIELDS)
        print_header_fields(r->header);
    for (size_t i = 0; i < r->n_alarms; i++) {
        const Etcdserverpb__AlarmMember *m = r->alarms[i];

        if (c->format == CTL_FORMAT_FIELDS)
            printf("\"MemberID\" : %" PRIu64 "\n\"AlarmType\" : %s\n\n", m->memberid,
                   alarm_name(m->alarm));
        else
            printf("memberID:%" PRIu64 " alarm:%s \n", m->memberid, alarm_name(m->alarm));
    }
}

static Etcdserverpb__AlarmResponse *ask_alarms(struct ctl *c)
{
    Etcdserverpb__AlarmRequest request = ETCDSERVERPB__ALARM_REQUEST__INIT;

    request.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET;
    return ctl_ask(c, &ctl_method_alarm, &request);
}

static int run_alarm_list(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AlarmResponse *r;

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "alarm list command accepts no arguments");
    r = ask_alarms(c);
    print_alarms(c, r);
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

/* Every alarm there is, one request each; the answer lists what was disarmed, without a header. */
static int run_alarm_disarm(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__AlarmResponse *list, done = ETCDSERVERPB__ALARM_RESPONSE__INIT;

    if (a->argc != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "alarm disarm command accepts no arguments");
    list = ask_alarms(c);
    for (size_t i = 0; i < list->n_alarms; i++) {
        Etcdserverpb__AlarmRequest request = ETCDSERVERPB__ALARM_REQUEST__INIT;

        request.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__DEACTIVATE;
        request.memberid = list->alarms[i]->memberid;
        request.alarm = list->alarms[i]->alarm;
        ctl_answer_free(ctl_ask(c, &ctl_method_alarm, &request));
    }
    done.alarms = list->alarms;
    done.n_alarms = list->n_alarms;
    print_alarms(c, &done);
    ctl_answer_free(list);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_alarm_list = {
    .use = "list", .summary = "Lists all alarms", .run = run_alarm_list};
static const struct ctl_command cmd_alarm_disarm = {
    .use = "disarm", .summary = "Disarms all alarms", .run = run_alarm_disarm};
static const struct ctl_command *const alarm_children[] = {&cmd_alarm_disarm, &cmd_alarm_list,
                                                           NULL};
const struct ctl_command cmd_alarm = {
    .use = "alarm <subcommand>", .summary = "Alarm related commands", .children = alarm_children};

/* ---- defrag ---- */

/* LevelDB gives space back while it runs, so a stopped member's directory needs nothing; but it
 * must be one, and not in use. */
static int defrag_directory(const char *dir)
{
    CLEANUP(freep) char *db = xasprintf("%s/member/db", dir);
    CLEANUP(freep) char *lock = xasprintf("%s/lock", dir);
    struct stat st;
    int fd;

    if (stat(db, &st) != 0 || !S_ISDIR(st.st_mode))
        ctl_die(CTL_EXIT_ERROR, "Failed to defragment etcd data[%s] (no member's data there)", dir);
    fd = open(lock, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0)
        ctl_die(CTL_EXIT_ERROR, "Failed to defragment etcd data[%s] (it is in use)", dir);
    closep(&fd);
    return CTL_EXIT_SUCCESS;
}

static int run_defrag(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__DefragmentRequest request = ETCDSERVERPB__DEFRAGMENT_REQUEST__INIT;
    char **endpoints;
    size_t count;
    bool failed = false;

    if (*ctl_args_string(a, "data-dir") != '\0')
        return defrag_directory(ctl_args_string(a, "data-dir"));
    count = cmd_endpoint_list(c, ctl_args_bool(a, "cluster"), &endpoints);
    for (size_t i = 0; i < count; i++) {
        struct ctl_error error = {0};
        struct ctl_client *client = ctl_connect_one(c, endpoints[i], &error);
        ProtobufCMessage *answer = NULL;

        if (client != NULL && ctl_client_unary(client, &ctl_method_defragment, &request.base,
                                               c->command_ms, &answer, &error) == 0) {
            printf("Finished defragmenting etcd member[%s]\n", endpoints[i]);
            ctl_answer_free(answer);
        } else {
            fflush(stdout);
            fprintf(stderr, "Failed to defragment etcd member[%s] (%s)\n", endpoints[i],
                    error.message);
            failed = true;
            ctl_error_fini(&error);
        }
        ctl_client_free(client);
    }
    return failed ? CTL_EXIT_ERROR : CTL_EXIT_SUCCESS;
}

static const struct ctl_flag defrag_flags[] = {
    {.name = "cluster",
     .type = CTL_FLAG_BOOL,
     .initial = "false",

     .usage = "use all endpoints from the cluster member list"},
    CTL_STRING("data-dir", "",
               "Optional. If present, defragments a data directory not in use by etcd."),
    CTL_FLAGS_END};
const struct ctl_command cmd_defrag = {
    .use = "defrag",
    .summary = "Defragments the storage of the etcd members with given endpoints",
    .flags = defrag_flags,
    .run = run_defrag};

/* ---- move-leader ---- */

static int run_move_leader(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__MoveLeaderRequest request = ETCDSERVERPB__MOVE_LEADER_REQUEST__INIT;
    Etcdserverpb__StatusRequest status = ETCDSERVERPB__STATUS_REQUEST__INIT;
    struct ctl_client *leader = NULL;
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};
    uint64_t leader_id = 0;
    char *why = NULL;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "move-leader command needs 1 argument");
    if (ctl_parse_uint(a->argv[0], 16, &request.targetid, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "%s", why);
    ctl_globals(c);
    for (size_t i = 0; i < c->endpoint_count && leader == NULL; i++) {
        const Etcdserverpb__StatusResponse *r;

        leader = ctl_connect_one(c, c->endpoints[i], &error);
        if (leader == NULL || ctl_client_unary(leader, &ctl_method_status, &status.base,
                                               c->command_ms, &answer, &error) != 0)
            ctl_die(CTL_EXIT_ERROR, "%s", error.message);
        r = (const void *)answer;
        leader_id = r->leader;
        if (r->header == NULL || r->header->member_id != r->leader) {
            ctl_client_free(leader);
            leader = NULL;
        }
        ctl_answer_free(answer);
    }
    if (leader == NULL) {
        struct buf list = BUF_INIT;

        for (size_t i = 0; i < c->endpoint_count; i++)
            buf_appendf(&list, "%s%s", i > 0 ? " " : "", c->endpoints[i]);
        ctl_die(CTL_EXIT_BAD_ARGS, "no leader endpoint given at [%.*s]", (int)list.len, list.data);
    }
    if (ctl_client_unary(leader, &ctl_method_move_leader, &request.base, c->command_ms, &answer,
                         &error) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", error.message);
    print_done(c, answer, "Leadership transferred from %" PRIx64 " to %" PRIx64, leader_id,
               request.targetid);
    ctl_client_free(leader);
    return CTL_EXIT_SUCCESS;
}

const struct ctl_command cmd_move_leader = {
    .use = "move-leader <transferee-member-id>",
    .summary = "Transfers leadership to another etcd cluster member.",
    .run = run_move_leader};

/* ---- downgrade ---- */

static int downgrade(struct ctl *c, Etcdserverpb__DowngradeRequest__DowngradeAction action,
                     const char *version, const char *what)
{
    Etcdserverpb__DowngradeRequest request = ETCDSERVERPB__DOWNGRADE_REQUEST__INIT;
    Etcdserverpb__DowngradeResponse *r;

    request.action = action;
    request.version = ctl_string(version);
    r = ctl_ask(c, &ctl_method_downgrade, &request);
    print_done(c, r, "Downgrade %s success, cluster version %s", what, r->version);
    return CTL_EXIT_SUCCESS;
}

static const char *target_version(const struct ctl_args *a)
{
    if (a->argc < 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "TARGET_VERSION not provided");
    if (a->argc > 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "too many arguments");
    return a->argv[0];
}

static int run_downgrade_validate(struct ctl *c, struct ctl_args *a)
{
    return downgrade(c, ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__VALIDATE,
                     target_version(a), "validate");
}

static int run_downgrade_enable(struct ctl *c, struct ctl_args *a)
{
    return downgrade(c, ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__ENABLE,
                     target_version(a), "enable");
}

static int run_downgrade_cancel(struct ctl *c, struct ctl_args *a)
{
    return downgrade(c, ETCDSERVERPB__DOWNGRADE_REQUEST__DOWNGRADE_ACTION__CANCEL, "", "cancel");
}

static const struct ctl_command cmd_downgrade_validate = {
    .use = "validate <TARGET_VERSION>",
    .summary = "Validate downgrade capability before starting downgrade",
    .run = run_downgrade_validate};
static const struct ctl_command cmd_downgrade_enable = {.use = "enable <TARGET_VERSION>",
                                                        .summary =
                                                            "Start a downgrade action to cluster",
                                                        .run = run_downgrade_enable};
static const struct ctl_command cmd_downgrade_cancel = {
    .use = "cancel",
    .summary = "Cancel the ongoing downgrade action to cluster",
    .run = run_downgrade_cancel};
static const struct ctl_command *const downgrade_children[] = {
    &cmd_downgrade_validate, &cmd_downgrade_enable, &cmd_downgrade_cancel, NULL};
const struct ctl_command cmd_downgrade = {.use = "downgrade <subcommand>",
                                          .summary = "Downgrade related commands",
                                          .children = downgrade_children};
