/*
 * make-mirror: copies the keys of one cluster into another as of one revision, then every change
 * after it, each revision as one transaction.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_secure.h"
#include "ctl/ctl_watch.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "lib/util/xmalloc.h"

enum { PAGE_KEYS = 1000, REPORT_MS = 30000 };

struct change {
    struct list link;
    ProtobufCBinaryData key, value; /* of the destination; owned */
    int64_t revision;
    bool deletes;
};

struct mirror {
    struct ctl *c;
    struct ctl_client *to;
    const char *prefix, *to_prefix;
    size_t ops_max;
    uint64_t total;
    struct list changes;
    size_t change_count;
    bool ended;
    char *why;
};

static ProtobufCBinaryData copy(struct bytes data)
{
    return (ProtobufCBinaryData){
        .data = xmemdup(data.data != NULL ? data.data : (const uint8_t *)"", data.len),
        .len = data.len};
}

/* The first occurrence of the prefix is replaced by that of the destination. */
static ProtobufCBinaryData mirrored_key(const struct mirror *m, ProtobufCBinaryData key)
{
    size_t prefix_len = strlen(m->prefix), to_len = strlen(m->to_prefix);
    ProtobufCBinaryData out;

    if (key.len < prefix_len || memcmp(key.data, m->prefix, prefix_len) != 0)
        return copy(bytes_of(key.data, key.len));
    out.len = key.len - prefix_len + to_len;
    out.data = xmalloc(out.len + 1);
    memcpy(out.data, m->to_prefix, to_len);
    memcpy(out.data + to_len, key.data + prefix_len, key.len - prefix_len);
    return out;
}

static void source_range(const struct mirror *m, ProtobufCBinaryData *ret_key,
                         ProtobufCBinaryData *ret_end)
{
    *ret_key = *m->prefix == '\0' ? ctl_zero_byte() : ctl_data(m->prefix);
    *ret_end = *m->prefix == '\0' ? ctl_zero_byte() : ctl_prefix_end(*ret_key);
}

static void on_report(void *user)
{
    const struct mirror *m = user;

    printf("%" PRIu64 "\n", m->total);
    fflush(stdout);
}

/* ---- the base ---- */

static void put_one(struct mirror *m, const Mvccpb__KeyValue *kv)
{
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};

    put.key = mirrored_key(m, kv->key);
    put.value = kv->value;
    if (ctl_client_unary(m->to, &ctl_method_put, &put.base, m->c->command_ms, &answer, &error) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", error.message);
    free(put.key.data);
    ctl_answer_free(answer);
    m->total++;
}

/* Returns the revision that was copied. */
static int64_t copy_base(struct mirror *m)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    struct buf from CLEANUP(buf_fini) = BUF_INIT;
    bool more = true;

    source_range(m, &request.key, &request.range_end);
    request.limit = PAGE_KEYS;
    while (more) {
        Etcdserverpb__RangeResponse *r = ctl_ask(m->c, &ctl_method_range, &request);

        if (request.revision == 0)
            request.revision = r->header != NULL ? r->header->revision : 0;
        for (size_t i = 0; i < r->n_kvs; i++)
            put_one(m, r->kvs[i]);
        more = r->more && r->n_kvs > 0;
        if (more) {
            const Mvccpb__KeyValue *last = r->kvs[r->n_kvs - 1];

            buf_clear(&from);
            buf_append(&from, last->key.data, last->key.len);
            buf_append_u8(&from, 0);
            request.key = (ProtobufCBinaryData){.data = from.data, .len = from.len};
        }
        ctl_answer_free(r);
    }
    return request.revision;
}

/* ---- the changes ---- */

static void on_response(void *user, const Etcdserverpb__WatchResponse *r)
{
    struct mirror *m = user;

    for (size_t i = 0; i < r->n_events; i++) {
        const Mvccpb__KeyValue *kv = r->events[i]->kv;
        struct change *change = xcalloc(1, sizeof(*change));

        change->key = mirrored_key(m, kv->key);
        change->value = copy(bytes_of(kv->value.data, kv->value.len));
        change->revision = kv->mod_revision;
        change->deletes = r->events[i]->type == MVCCPB__EVENT__EVENT_TYPE__DELETE;
        list_push_back(&m->changes, &change->link);
        m->change_count++;
    }
}

static void on_ended(void *user, const char *message)
{
    struct mirror *m = user;

    m->ended = true;
    m->why = xstrdup(message);
}

/* The oldest changes of one revision, at most ops_max of them, in one transaction. */
static void apply_changes(struct mirror *m)
{
    Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
    struct change **taken = xcalloc(m->ops_max, sizeof(*taken));
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};
    size_t count = 0;

    while (count < m->ops_max && !list_empty(&m->changes)) {
        struct change *change = LIST_ENTRY(m->changes.next, struct change, link);

        if (count > 0 && change->revision != taken[0]->revision)
            break;
        list_remove(&change->link);
        taken[count++] = change;
    }
    m->change_count -= count;
    txn.success = xcalloc(count + 1, sizeof(*txn.success));
    txn.n_success = count;
    for (size_t i = 0; i < count; i++) {
        Etcdserverpb__RequestOp *op = xcalloc(1, sizeof(*op));

        etcdserverpb__request_op__init(op);
        if (taken[i]->deletes) {
            op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_DELETE_RANGE;
            op->request_delete_range = xmalloc(sizeof(*op->request_delete_range));
            etcdserverpb__delete_range_request__init(op->request_delete_range);
            op->request_delete_range->key = taken[i]->key;
        } else {
            op->request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
            op->request_put = xmalloc(sizeof(*op->request_put));
            etcdserverpb__put_request__init(op->request_put);
            op->request_put->key = taken[i]->key;
            op->request_put->value = taken[i]->value;
        }
        txn.success[i] = op;
    }
    if (ctl_client_unary(m->to, &ctl_method_txn, &txn.base, m->c->command_ms, &answer, &error) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", error.message);
    ctl_answer_free(answer);
    m->total += count;
    for (size_t i = 0; i < count; i++) {
        free(txn.success[i]->request_put); /* either kind: one pointer of a union */
        free(txn.success[i]);
        free(taken[i]->key.data);
        free(taken[i]->value.data);
        free(taken[i]);
    }
    free(txn.success);
    free(taken);
}

/* ---- the command ---- */

static struct ctl_client *connect_destination(struct ctl *c, const struct ctl_args *a)
{
    const char *user = ctl_args_string(a, "dest-user");
    const char *password = ctl_args_string(a, "dest-password");
    const char *colon = strchr(user, ':');
    char *endpoint = xstrdup(a->argv[0]);
    struct ctl to = *c;
    struct ctl_error error = {0};
    struct ctl_client *client;

    ctl_globals(c);
    to = *c;
    to.user = to.password = NULL;
    to.tls = ctl_secure_context(&(struct ctl_secure){.cert = ctl_args_string(a, "dest-cert"),
                                                     .key = ctl_args_string(a, "dest-key"),
                                                     .cacert = ctl_args_string(a, "dest-cacert"),
                                                     .endpoints = &endpoint,
                                                     .endpoint_count = 1});
    if (*user != '\0') {
        to.user = colon != NULL && *password == '\0' ? xstrndup(user, (size_t)(colon - user))
                                                     : xstrdup(user);
        to.password = *password != '\0' ? xstrdup(password)
                      : colon != NULL   ? xstrdup(colon + 1)
                                        : ctl_read_password("Destination Password: ");
        if (to.password == NULL)
            ctl_die(CTL_EXIT_ERROR, "no password on standard input");
    }
    client = ctl_connect_one(&to, endpoint, &error);
    if (client == NULL)
        ctl_die(CTL_EXIT_BAD_CONNECTION, "%s", error.message);
    free(endpoint);
    return client;
}

static int run_make_mirror(struct ctl *c, struct ctl_args *a)
{
    struct mirror m = {.c = c, .prefix = ctl_args_string(a, "prefix")};
    bool no_prefix = ctl_args_bool(a, "no-dest-prefix");
    const char *to_prefix = ctl_args_string(a, "dest-prefix");
    int64_t revision = ctl_args_int(a, "rev") - 1;
    struct loop_timer *timer;
    struct ctl_watch_args watch = {.on_response = on_response, .on_ended = on_ended, .user = &m};
    struct ctl_watch *w;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "make-mirror takes one destination argument");
    if (no_prefix && *to_prefix != '\0')
        ctl_die(CTL_EXIT_BAD_ARGS, "`--dest-prefix` and `--no-dest-prefix` cannot be set at the "
                                   "same time, choose one");
    m.to_prefix = no_prefix ? "" : *to_prefix != '\0' ? to_prefix : m.prefix;
    m.ops_max = (size_t)MAX(ctl_args_int(a, "max-txn-ops"), (int64_t)1);
    list_init(&m.changes);
    m.to = connect_destination(c, a);
    timer = loop_timer_new(c->loop, "report", on_report, &m);
    loop_timer_start(timer, REPORT_MS, REPORT_MS);
    if (revision <= 0)
        revision = copy_base(&m);
    source_range(&m, &watch.key, &watch.range_end);
    watch.revision = revision + 1;
    w = ctl_watch_new(c->loop, ctl_connect(c), &watch);
    while (!m.ended || !list_empty(&m.changes)) {
        while (!list_empty(&m.changes))
            apply_changes(&m);
        if (!m.ended)
            loop_run_once(c->loop, 1000);
    }
    ctl_watch_free(w);
    ctl_die(CTL_EXIT_ERROR, "%s", m.why);
}

static const struct ctl_flag flags[] = {
    CTL_STRING("dest-cacert", "",
               "Verify certificates of TLS enabled secure servers using this CA bundle"),
    CTL_STRING(
        "dest-cert", "",
        "Identify secure client using this TLS certificate file for the destination cluster"),
    {.name = "dest-insecure-transport",
     .type = CTL_FLAG_BOOL,
     .initial = "true",
     .usage = "Disable transport security for client connections"},
    CTL_STRING("dest-key", "", "Identify secure client using this TLS key file"),
    CTL_STRING("dest-password", "",
               "Destination password for authentication (if this option is used, --user option "
               "shouldn't include password)"),
    CTL_STRING("dest-prefix", "",
               "destination prefix to mirror a prefix to a different prefix in the destination "
               "cluster"),
    CTL_STRING("dest-user", "",
               "Destination username[:password] for authentication (prompt if password is not "
               "supplied)"),
    {.name = "max-txn-ops",
     .type = CTL_FLAG_UINT,
     .initial = "128",
     .usage = "Maximum number of operations permitted in a transaction during syncing updates."},
    CTL_BOOL("no-dest-prefix", "mirror key-values to the root of the destination cluster"),
    CTL_STRING("prefix", "", "Key-value prefix to mirror"),
    CTL_INT("rev", "0", "Specify the kv revision to start to mirror"),
    CTL_FLAGS_END};
const struct ctl_command cmd_make_mirror = {.use = "make-mirror [options] <destination>",
                                            .summary =
                                                "Makes a mirror at the destination etcd cluster",
                                            .flags = flags,
                                            .run = run_make_mirror};
