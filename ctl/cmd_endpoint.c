/*
 * endpoint health, status, hashkv: every endpoint is asked over a connection of its own, all of
 * the cluster's members with --cluster.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

size_t cmd_endpoint_list(struct ctl *c, bool cluster, char ***ret)
{
    Etcdserverpb__MemberListRequest request = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
    Etcdserverpb__MemberListResponse *r;
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};
    size_t count = 0;

    ctl_globals(c);
    if (!cluster) {
        *ret = c->endpoints;
        return c->endpoint_count;
    }
    request.linearizable = true;
    if (ctl_try(c, &ctl_method_member_list, &request, &answer, &error) != 0)
        ctl_die(CTL_EXIT_ERROR, "failed to fetch endpoints from etcd cluster member list: %s",
                error.message);
    r = (Etcdserverpb__MemberListResponse *)(void *)answer;
    *ret = NULL;
    for (size_t i = 0; i < r->n_members; i++)
        for (size_t j = 0; j < r->members[i]->n_clienturls; j++) {
            *ret = xreallocarray(*ret, count + 1, sizeof(char *));
            (*ret)[count++] = xstrdup(r->members[i]->clienturls[j]);
        }
    ctl_answer_free(answer);
    return count;
}

/* Asks one endpoint. 0 and *ret, or the code. */
static int ask_one(struct ctl *c, char *endpoint, const struct ctl_method *method,
                   const void *request, ProtobufCMessage **ret, struct ctl_error *ret_error)
{
    struct ctl_client *client = ctl_connect_one(c, endpoint, ret_error);
    int code;

    if (client == NULL)
        return ret_error->code;
    code = ctl_client_unary(client, method, request, c->command_ms, ret, ret_error);
    ctl_client_free(client);
    return code;
}

#define CLUSTER_FLAG                                                                               \
    {                                                                                              \
        .name = "cluster", .type = CTL_FLAG_BOOL, .initial = "false", .inherited = true,           \
        .usage = "use all endpoints from the cluster member list"                                  \
    }

/* ---- health ---- */

struct health {
    char *endpoint;
    bool healthy;
    char *took;
    char *error; /* "" */
    struct ctl_client *client;
    uint64_t start_ns;
    int code;
    size_t order, *answered;
};

static char *alarm_text(const Etcdserverpb__AlarmResponse *r)
{
    struct buf text = BUF_INIT;

    buf_appendf(&text, "Active Alarm(s): ");
    for (size_t i = 0; i < r->n_alarms; i++)
        buf_appendf(&text, "%s ",
                    r->alarms[i]->alarm == ETCDSERVERPB__ALARM_TYPE__NOSPACE   ? "NOSPACE"
                    : r->alarms[i]->alarm == ETCDSERVERPB__ALARM_TYPE__CORRUPT ? "CORRUPT"
                                                                               : "UNKNOWN");
    buf_append_u8(&text, 0);
    return (char *)text.data;
}

static void on_health_message(void *user, struct bytes message)
{
    (void)user; /* that there is one is enough */
}

static void on_health_done(void *user, int code, const char *message)
{
    struct health *h = user;

    h->took = ctl_text_duration((int64_t)(loop_clock_ns() - h->start_ns));
    h->code = code;
    h->healthy = code == 0 || code == CTL_PERMISSION_DENIED;
    h->error = xstrdup(h->healthy ? "" : message);
    h->order = ++*h->answered;
}

/* One linearizable read; `health` means nothing. */
static void health_start(struct ctl *c, struct health *h)
{
    static const struct ctl_call_handler handler = {.on_message = on_health_message,
                                                    .on_done = on_health_done};
    Etcdserverpb__RangeRequest range = ETCDSERVERPB__RANGE_REQUEST__INIT;
    struct ctl_error error = {0};

    h->start_ns = loop_clock_ns();
    h->client = ctl_connect_one(c, h->endpoint, &error);
    if (h->client == NULL) {
        on_health_done(h, error.code, error.message);
        ctl_error_fini(&error);
        return;
    }
    range.key = ctl_data("health");
    ctl_call_start(h->client, &(struct ctl_call_args){.method = &ctl_method_range,
                                                      .request = &range.base,
                                                      .timeout_ms = c->command_ms,
                                                      .handler = &handler,
                                                      .user = h});
}

static void health_alarms(struct ctl *c, struct health *h)
{
    Etcdserverpb__AlarmRequest alarm = ETCDSERVERPB__ALARM_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};
    char *found = NULL;
    int code;

    alarm.action = ETCDSERVERPB__ALARM_REQUEST__ALARM_ACTION__GET;
    code =
        ctl_client_unary(h->client, &ctl_method_alarm, &alarm.base, c->command_ms, &answer, &error);
    if (code == 0) {
        const Etcdserverpb__AlarmResponse *r = (const void *)answer;

        if (r->n_alarms > 0)
            found = alarm_text(r);
        ctl_answer_free(answer);
    } else if (code != CTL_PERMISSION_DENIED) {
        found = xstrdup("Unable to fetch the alarm list");
    }
    ctl_error_fini(&error);
    if (found != NULL) {
        h->healthy = false;
        free(h->error);
        h->error = found;
    }
}

static int health_cmp(const void *a, const void *b)
{
    const struct health *x = a, *y = b;

    return x->order < y->order ? -1 : x->order > y->order;
}

static void health_print(const struct ctl *c, const struct health *list, size_t count)
{
    static const char *const headers[] = {"ENDPOINT", "HEALTH", "TOOK", "ERROR"};
    char **cells = xcalloc(count * 4 + 1, sizeof(*cells));

    for (size_t i = 0; i < count; i++) {
        const struct health *h = &list[i];

        cells[i * 4] = h->endpoint;
        cells[i * 4 + 1] = (char *)(uintptr_t)(h->healthy ? "true" : "false");
        cells[i * 4 + 2] = h->took;
        cells[i * 4 + 3] = h->error;
        if (c->format == CTL_FORMAT_JSON) {
            printf("%s{\"endpoint\":", i == 0 ? "[" : ",");
            ctl_text_json_string(stdout, h->endpoint);
            printf(",\"health\":%s,\"took\":", h->healthy ? "true" : "false");
            ctl_text_json_string(stdout, h->took);
            if (*h->error != '\0') {
                fputs(",\"error\":", stdout);
                ctl_text_json_string(stdout, h->error);
            }
            putchar('}');
        } else if (c->format == CTL_FORMAT_FIELDS) {
            print_quoted_field("", "Endpoint", h->endpoint, strlen(h->endpoint));
            printf("\"Health\" : %s\n\"Took\" : %s\n\"Error\" : %s\n\n",
                   h->healthy ? "true" : "false", h->took, h->error);
        } else if (c->format == CTL_FORMAT_SIMPLE && h->healthy) {
            printf("%s is healthy: successfully committed proposal: took = %s\n", h->endpoint,
                   h->took);
        } else if (c->format == CTL_FORMAT_SIMPLE) {
            fflush(stdout);
            fprintf(stderr, "%s is unhealthy: failed to commit proposal: %s\n", h->endpoint,
                    h->error);
        }
    }
    if (c->format == CTL_FORMAT_JSON)
        puts(count > 0 ? "]" : "[]");
    if (c->format == CTL_FORMAT_TABLE)
        print_table(headers, 4, cells, count);
    free(cells);
}

static int run_health(struct ctl *c, struct ctl_args *a)
{
    char **endpoints;
    size_t count = cmd_endpoint_list(c, ctl_args_bool(a, "cluster"), &endpoints);
    struct health *list = xcalloc(count + 1, sizeof(*list));
    size_t answered = 0;
    bool all = true;

    for (size_t i = 0; i < count; i++) {
        list[i].endpoint = endpoints[i];
        list[i].answered = &answered;
        health_start(c, &list[i]);
    }
    while (answered < count)
        loop_run_once(c->loop, 1000);
    for (size_t i = 0; i < count; i++) {
        if (list[i].code == 0)
            health_alarms(c, &list[i]);
        ctl_client_free(list[i].client);
        all = all && list[i].healthy;
    }
    qsort(list, count, sizeof(*list), health_cmp);
    if (c->format == CTL_FORMAT_PROTOBUF)
        print_marshal_unsupported("[]command.epHealth");
    health_print(c, list, count);
    for (size_t i = 0; i < count; i++) {
        free(list[i].took);
        free(list[i].error);
    }
    free(list);
    if (!all)
        ctl_die(CTL_EXIT_ERROR, "unhealthy cluster");
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag health_flags[] = {CLUSTER_FLAG, CTL_FLAGS_END};
static const struct ctl_command cmd_health = {
    .use = "health",
    .summary = "Checks the healthiness of endpoints specified in `--endpoints` flag",
    .flags = health_flags,
    .run = run_health};

/* ---- status ---- */

enum { STATUS_COLUMNS = 10 };

static void status_row(char **row, const char *endpoint, const Etcdserverpb__StatusResponse *r)
{
    struct buf errors = BUF_INIT;
    uint64_t id = r->header != NULL ? r->header->member_id : 0;

    for (size_t i = 0; i < r->n_errors; i++)
        buf_appendf(&errors, "%s%s", i > 0 ? ", " : "", r->errors[i]);
    buf_append_u8(&errors, 0);
    row[0] = xstrdup(endpoint);
    row[1] = xasprintf("%" PRIx64, id);
    row[2] = xstrdup(r->version);
    row[3] = ctl_text_size((uint64_t)r->dbsize);
    row[4] = xstrdup(r->leader == id ? "true" : "false");
    row[5] = xstrdup(r->islearner ? "true" : "false");
    row[6] = xasprintf("%" PRIu64, r->raftterm);
    row[7] = xasprintf("%" PRIu64, r->raftindex);
    row[8] = xasprintf("%" PRIu64, r->raftappliedindex);
    row[9] = (char *)errors.data;
}

static void status_fields(const char *endpoint, const Etcdserverpb__StatusResponse *r)
{
    print_header_fields(r->header);
    print_quoted_field("", "Version", r->version, strlen(r->version));
    printf("\"DBSize\" : %" PRId64 "\n\"Leader\" : %" PRIu64 "\n\"IsLearner\" : %s\n", r->dbsize,
           r->leader, r->islearner ? "true" : "false");
    printf("\"RaftIndex\" : %" PRIu64 "\n\"RaftTerm\" : %" PRIu64
           "\n\"RaftAppliedIndex\" : %" PRIu64 "\n\"Errors\" : [",
           r->raftindex, r->raftterm, r->raftappliedindex);
    for (size_t i = 0; i < r->n_errors; i++)
        printf("%s%s", i > 0 ? " " : "", r->errors[i]);
    puts("]");
    print_quoted_field("", "Endpoint", endpoint, strlen(endpoint));
    putchar('\n');
}

static int run_status(struct ctl *c, struct ctl_args *a)
{
    static const char *const headers[STATUS_COLUMNS] = {
        "ENDPOINT",           "ID",         "VERSION",   "DB SIZE",
        "IS LEADER",          "IS LEARNER", "RAFT TERM", "RAFT INDEX",
        "RAFT APPLIED INDEX", "ERRORS"};
    Etcdserverpb__StatusRequest request = ETCDSERVERPB__STATUS_REQUEST__INIT;
    char **endpoints, **cells;
    size_t count = cmd_endpoint_list(c, ctl_args_bool(a, "cluster"), &endpoints), rows = 0;
    bool failed = false, any = false;

    cells = xcalloc(count * STATUS_COLUMNS + 1, sizeof(*cells));
    for (size_t i = 0; i < count; i++) {
        ProtobufCMessage *answer = NULL;
        struct ctl_error error = {0};
        const Etcdserverpb__StatusResponse *r;
        char **row = cells + rows * STATUS_COLUMNS;

        if (ask_one(c, endpoints[i], &ctl_method_status, &request, &answer, &error) != 0) {
            fflush(stdout);
            fprintf(stderr, "Failed to get the status of endpoint %s (%s)\n", endpoints[i],
                    error.message);
            ctl_error_fini(&error);
            failed = true;
            continue;
        }
        r = (const void *)answer;
        if (c->format == CTL_FORMAT_JSON) {
            printf("%s{\"Endpoint\":", any ? "," : "[");
            ctl_text_json_string(stdout, endpoints[i]);
            fputs(",\"Status\":", stdout);
            ctl_json_message(stdout, answer);
            putchar('}');
        } else if (c->format == CTL_FORMAT_FIELDS) {
            status_fields(endpoints[i], r);
        } else if (c->format != CTL_FORMAT_PROTOBUF) {
            status_row(row, endpoints[i], r);
            rows++;
        }
        if (c->format == CTL_FORMAT_SIMPLE)
            printf("%s, %s, %s, %s, %s, %s, %s, %s, %s, %s\n", row[0], row[1], row[2], row[3],
                   row[4], row[5], row[6], row[7], row[8], row[9]);
        any = true;
        ctl_answer_free(answer);
    }
    if (c->format == CTL_FORMAT_JSON)
        puts(any ? "]" : "[]");
    if (c->format == CTL_FORMAT_TABLE)
        print_table(headers, STATUS_COLUMNS, cells, rows);
    ctl_words_free(cells, rows * STATUS_COLUMNS);
    if (c->format == CTL_FORMAT_PROTOBUF)
        print_marshal_unsupported("[]command.epStatus");
    return failed ? CTL_EXIT_ERROR : CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_status = {
    .use = "status",
    .summary = "Prints out the status of endpoints specified in `--endpoints` flag",
    .description = "Prints one line per endpoint: endpoint, ID, version, db size, is leader,\n"
                   "is learner, raft term, raft index, raft applied index, errors.",
    .flags = health_flags,
    .run = run_status};

/* ---- hashkv ---- */

static void hash_print(const struct ctl *c, const char *endpoint,
                       const Etcdserverpb__HashKVResponse *r, bool first)
{
    if (c->format == CTL_FORMAT_JSON) {
        printf("%s{\"Endpoint\":", first ? "[" : ",");
        ctl_text_json_string(stdout, endpoint);
        fputs(",\"HashKV\":", stdout);
        ctl_json_message(stdout, &r->base);
        putchar('}');
    } else if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        print_quoted_field("", "Endpoint", endpoint, strlen(endpoint));
        printf("\"Hash\" : %" PRIu32 "\n\n", r->hash);
    } else if (c->format == CTL_FORMAT_SIMPLE) {
        printf("%s, %" PRIu32 "\n", endpoint, r->hash);
    }
}

static int run_hashkv(struct ctl *c, struct ctl_args *a)
{
    static const char *const headers[] = {"ENDPOINT", "HASH"};
    Etcdserverpb__HashKVRequest request = ETCDSERVERPB__HASH_KVREQUEST__INIT;
    char **endpoints, **cells;
    size_t count = cmd_endpoint_list(c, ctl_args_bool(a, "cluster"), &endpoints), rows = 0;
    char *last_error = NULL;

    cells = xcalloc(count * 2 + 1, sizeof(*cells));
    request.revision = ctl_args_int(a, "rev");
    for (size_t i = 0; i < count; i++) {
        ProtobufCMessage *answer = NULL;
        struct ctl_error error = {0};

        if (ask_one(c, endpoints[i], &ctl_method_hash_kv, &request, &answer, &error) != 0) {
            fflush(stdout);
            fprintf(stderr, "Failed to get the hash of endpoint %s (%s)\n", endpoints[i],
                    error.message);
            free(last_error);
            last_error = TAKE(error.message);
            continue;
        }
        hash_print(c, endpoints[i], (const void *)answer, rows == 0);
        cells[rows * 2] = xstrdup(endpoints[i]);
        cells[rows * 2 + 1] =
            xasprintf("%" PRIu32, ((const Etcdserverpb__HashKVResponse *)(void *)answer)->hash);
        rows++;
        ctl_answer_free(answer);
    }
    if (c->format == CTL_FORMAT_JSON)
        puts(rows > 0 ? "]" : "[]");
    if (c->format == CTL_FORMAT_TABLE)
        print_table(headers, 2, cells, rows);
    ctl_words_free(cells, rows * 2);
    if (c->format == CTL_FORMAT_PROTOBUF)
        print_marshal_unsupported("[]command.epHashKV");
    if (last_error != NULL)
        ctl_die(CTL_EXIT_ERROR, "%s", last_error);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag hashkv_flags[] = {
    CTL_INT("rev", "0", "maximum revision to hash (default: all revisions)"), CLUSTER_FLAG,
    CTL_FLAGS_END};
static const struct ctl_command cmd_hashkv = {
    .use = "hashkv",
    .summary = "Prints the KV history hash for each endpoint in --endpoints",
    .flags = hashkv_flags,
    .run = run_hashkv};

static const struct ctl_command *const children[] = {&cmd_health, &cmd_status, &cmd_hashkv, NULL};
const struct ctl_command cmd_endpoint = {.use = "endpoint <subcommand>",
                                         .summary = "Endpoint related commands",
                                         .flags = health_flags,
                                         .children = children};
