/* get, put, del, compaction. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/print.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

/* ---- put ---- */

void cmd_put_request(const struct ctl_args *a, bool may_read_stdin, Etcdserverpb__PutRequest *ret)
{
    char *why = NULL;
    int64_t lease = 0;
    size_t len = 0;

    *ret = (Etcdserverpb__PutRequest)ETCDSERVERPB__PUT_REQUEST__INIT;
    if (a->argc == 0)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "put command needs 1 argument and input from stdin or 2 arguments");
    ret->key = ctl_data(a->argv[0]);
    ret->ignore_value = ctl_args_bool(a, "ignore-value");
    if (ret->ignore_value && a->argc > 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "put command needs only 1 argument when 'ignore-value' is set");
    if (!ret->ignore_value && a->argc > 1) {
        ret->value = ctl_data(a->argv[1]);
    } else if (!ret->ignore_value) {
        char *value = may_read_stdin ? ctl_read_stdin(&len) : NULL;

        if (len == 0)
            ctl_die(CTL_EXIT_BAD_ARGS,
                    "put command needs 1 argument and input from stdin or 2 arguments");
        ret->value = (ProtobufCBinaryData){.data = (uint8_t *)value, .len = len};
    }
    if (ctl_parse_int(ctl_args_string(a, "lease"), 16, &lease, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "bad lease ID (%s), expecting ID in Hex", why);
    ret->lease = lease;
    ret->prev_kv = ctl_args_bool(a, "prev-kv");
    ret->ignore_lease = ctl_args_bool(a, "ignore-lease");
}

static int run_put(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__PutRequest request;
    Etcdserverpb__PutResponse *answer;

    cmd_put_request(a, true, &request);
    answer = ctl_ask(c, &ctl_method_put, &request);
    print_put(c, answer);
    ctl_answer_free(answer);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag put_flags[] = {
    CTL_BOOL("ignore-lease", "updates the key using its current lease"),
    CTL_BOOL("ignore-value", "updates the key using its current value"),
    CTL_STRING("lease", "0", "lease ID (in hexadecimal) to attach to the key"),
    CTL_BOOL("prev-kv", "return the previous key-value pair before modification"), CTL_FLAGS_END};
const struct ctl_command cmd_put = {
    .use = "put [options] <key> <value> (<value> can also be given from stdin)",
    .summary = "Puts the given key into the store",
    .description = "Puts the given key into the store.\n"
                   "\n"
                   "A <value> that begins with '-' is read as a flag.\n"
                   "Put '--' before it:\n"
                   "\n"
                   "$ put <key> -- <value>\n"
                   "$ put -- <key> <value>\n"
                   "\n"
                   "Without a <value> argument, and without '--ignore-value', the value is all\n"
                   "of standard input:\n"
                   "\n"
                   "$ cat file | put <key>",
    .flags = put_flags,
    .run = run_put,
};

/* ---- get ---- */

static bool same_word(const char *text, const char *word)
{
    return strcasecmp(text, word) == 0;
}

static void get_order(const struct ctl_args *a, Etcdserverpb__RangeRequest *ret)
{
    static const struct {
        const char *name;
        Etcdserverpb__RangeRequest__SortTarget target;
    } targets[] = {{"CREATE", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE},
                   {"KEY", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__KEY},
                   {"MODIFY", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__MOD},
                   {"VALUE", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VALUE},
                   {"VERSION", ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__VERSION}};
    const char *order = ctl_args_string(a, "order"), *target = ctl_args_string(a, "sort-by");

    if (same_word(order, "ASCEND"))
        ret->sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
    else if (same_word(order, "DESCEND"))
        ret->sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
    else if (*order != '\0')
        ctl_die(CTL_EXIT_BAD_FEATURE, "bad sort order %s", order);
    if (*target == '\0')
        return;
    for (size_t i = 0; i < ARRAY_LEN(targets); i++)
        if (same_word(target, targets[i].name)) {
            ret->sort_target = targets[i].target;
            /* the ascending order of keys is the store's own */
            if (ret->sort_order == ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND &&
                ret->sort_target == ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__KEY)
                ret->sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__NONE;
            return;
        }
    ctl_die(CTL_EXIT_BAD_FEATURE, "bad sort target %s", target);
}

void cmd_get_request(const struct ctl_args *a, Etcdserverpb__RangeRequest *ret)
{
    bool prefix = ctl_args_bool(a, "prefix"), from_key = ctl_args_bool(a, "from-key");
    bool keys_only = ctl_args_bool(a, "keys-only"), count_only = ctl_args_bool(a, "count-only");
    const char *consistency = ctl_args_string(a, "consistency");

    *ret = (Etcdserverpb__RangeRequest)ETCDSERVERPB__RANGE_REQUEST__INIT;
    if (a->argc == 0)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "get command needs one argument as key and an optional argument as range_end");
    if (prefix && from_key)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "`--prefix` and `--from-key` cannot be set at the same time, choose one");
    if (keys_only && count_only)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one");
    if (strcmp(consistency, "s") == 0)
        ret->serializable = true;
    else if (strcmp(consistency, "l") != 0)
        ctl_die(CTL_EXIT_BAD_FEATURE, "unknown consistency flag \"%s\"", consistency);
    ret->key = ctl_data(a->argv[0]);
    if (a->argc > 1) {
        if (prefix || from_key)
            ctl_die(CTL_EXIT_BAD_ARGS, "too many arguments, only accept one argument when "
                                       "`--prefix` or `--from-key` is set");
        ret->range_end = ctl_data(a->argv[1]);
    }
    ret->limit = ctl_args_int(a, "limit");
    ret->revision = ctl_args_int(a, "rev");
    get_order(a, ret);
    if (prefix || from_key) {
        if (ret->key.len == 0) {
            ret->key = ret->range_end = ctl_zero_byte();
        } else {
            ret->range_end = prefix ? ctl_prefix_end(ret->key) : ctl_zero_byte();
        }
    }
    ret->keys_only = keys_only;
    ret->count_only = count_only;
    ret->min_create_revision = ctl_args_int(a, "min-create-rev");
    ret->max_create_revision = ctl_args_int(a, "max-create-rev");
    ret->min_mod_revision = ctl_args_int(a, "min-mod-rev");
    ret->max_mod_revision = ctl_args_int(a, "max-mod-rev");
    if (ret->max_create_revision != 0 && ret->min_create_revision > ret->max_create_revision)
        ctl_die(CTL_EXIT_BAD_FEATURE,
                "getMinCreateRev(=%" PRId64 ") > getMaxCreateRev(=%" PRId64 ")",
                ret->min_create_revision, ret->max_create_revision);
    if (ret->max_mod_revision != 0 && ret->min_mod_revision > ret->max_mod_revision)
        ctl_die(CTL_EXIT_BAD_FEATURE, "getMinModRev(=%" PRId64 ") > getMaxModRev(=%" PRId64 ")",
                ret->min_mod_revision, ret->max_mod_revision);
}

struct get_stream {
    struct ctl *c;
    bool value_only, done;
    int code;
    char *error;
};

static void on_part(void *user, struct bytes message)
{
    const struct get_stream *s = user;
    Etcdserverpb__RangeStreamResponse *part =
        etcdserverpb__range_stream_response__unpack(NULL, message.len, message.data);

    if (part != NULL && part->range_response != NULL)
        print_get(s->c, part->range_response, s->value_only);
    etcdserverpb__range_stream_response__free_unpacked(part, NULL);
}

static void on_parts_done(void *user, int code, const char *message)
{
    struct get_stream *s = user;

    s->done = true;
    s->code = code;
    s->error = xstrdup(message);
}

/* Each part is printed as it comes. */
static void get_streamed(struct ctl *c, const Etcdserverpb__RangeRequest *request, bool value_only)
{
    static const struct ctl_call_handler handler = {.on_message = on_part,
                                                    .on_done = on_parts_done};
    struct get_stream s = {.c = c, .value_only = value_only};

    ctl_call_start(ctl_connect(c), &(struct ctl_call_args){.method = &ctl_method_range_stream,
                                                           .request = &request->base,
                                                           .timeout_ms = c->command_ms,
                                                           .handler = &handler,
                                                           .user = &s});
    while (!s.done)
        loop_run_once(c->loop, 1000);
    if (s.code != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", s.error);
    free(s.error);
}

static int run_get(struct ctl *c, struct ctl_args *a)
{
    bool value_only = ctl_args_bool(a, "print-value-only");
    Etcdserverpb__RangeRequest request;
    Etcdserverpb__RangeResponse *answer;

    cmd_get_request(a, &request);
    ctl_globals(c);
    if (ctl_args_bool(a, "stream")) {
        get_streamed(c, &request, value_only);
        return CTL_EXIT_SUCCESS;
    }
    answer = ctl_ask(c, &ctl_method_range, &request);
    if (request.count_only && c->format != CTL_FORMAT_FIELDS)
        ctl_die(CTL_EXIT_BAD_ARGS, "--count-only is only for `--write-out=fields`");
    if (value_only && c->format != CTL_FORMAT_SIMPLE)
        ctl_die(CTL_EXIT_BAD_ARGS, "print-value-only is only for `--write-out=simple`");
    print_get(c, answer, value_only);
    ctl_answer_free(answer);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag get_flags[] = {
    CTL_STRING("consistency", "l", "Linearizable(l) or Serializable(s)"),
    CTL_BOOL("count-only", "Get only the count"),
    CTL_BOOL("from-key",
             "Get keys that are greater than or equal to the given key using byte compare"),
    CTL_BOOL("keys-only", "Get only the keys"),
    CTL_INT("limit", "0", "Maximum number of results"),
    CTL_INT("max-create-rev", "0", "Maximum create revision"),
    CTL_INT("max-mod-rev", "0", "Maximum modification revision"),
    CTL_INT("min-create-rev", "0", "Minimum create revision"),
    CTL_INT("min-mod-rev", "0", "Minimum modification revision"),
    CTL_STRING("order", "", "Order of results; ASCEND or DESCEND (ASCEND by default)"),
    CTL_BOOL("prefix", "Get keys with matching prefix"),
    CTL_BOOL("print-value-only", "Only write values when using the \"simple\" output format"),
    CTL_INT("rev", "0", "Specify the kv revision"),
    CTL_STRING("sort-by", "", "Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION"),
    CTL_BOOL("stream", "Get the results in parts, as they are read"),
    CTL_FLAGS_END};
const struct ctl_command cmd_get = {
    .use = "get [options] <key> [range_end]",
    .summary = "Gets the key or a range of keys",
    .flags = get_flags,
    .run = run_get,
};

/* ---- del ---- */

void cmd_del_request(const struct ctl_args *a, Etcdserverpb__DeleteRangeRequest *ret)
{
    bool prefix = ctl_args_bool(a, "prefix"), from_key = ctl_args_bool(a, "from-key");

    *ret = (Etcdserverpb__DeleteRangeRequest)ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    if (a->argc == 0 || a->argc > 2)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "del command needs one argument as key and an optional argument as range_end");
    if (prefix && from_key)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "`--prefix` and `--from-key` cannot be set at the same time, choose one");
    ret->key = ctl_data(a->argv[0]);
    if (a->argc > 1) {
        if (prefix || from_key)
            ctl_die(CTL_EXIT_BAD_ARGS, "too many arguments, only accept one argument when "
                                       "`--prefix` or `--from-key` is set");
        ret->range_end = ctl_data(a->argv[1]);
    }
    if (prefix && ret->key.len == 0) {
        ret->key = ret->range_end = ctl_zero_byte();
    } else if (prefix) {
        ret->range_end = ctl_prefix_end(ret->key);
    } else if (from_key) {
        if (ret->key.len == 0)
            ret->key = ctl_zero_byte();
        ret->range_end = ctl_zero_byte();
    }
    ret->prev_kv = ctl_args_bool(a, "prev-kv");
}

static int run_del(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__DeleteRangeRequest request;
    Etcdserverpb__DeleteRangeResponse *answer;

    cmd_del_request(a, &request);
    answer = ctl_ask(c, &ctl_method_delete, &request);
    print_delete(c, answer);
    ctl_answer_free(answer);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag del_flags[] = {
    CTL_BOOL("from-key",
             "delete keys that are greater than or equal to the given key using byte compare"),
    CTL_BOOL("prefix", "delete keys with matching prefix"),
    CTL_BOOL("prev-kv", "return deleted key-value pairs"),
    CTL_BOOL("range", "delete range of keys"), CTL_FLAGS_END};
const struct ctl_command cmd_del = {
    .use = "del [options] <key> [range_end]",
    .summary = "Removes the specified key or range of keys [key, range_end)",
    .flags = del_flags,
    .run = run_del,
};

/* ---- compaction ---- */

static int run_compaction(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__CompactionRequest request = ETCDSERVERPB__COMPACTION_REQUEST__INIT;
    char *why = NULL;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "compaction command needs 1 argument");
    if (ctl_parse_int(a->argv[0], 10, &request.revision, &why) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", why);
    request.physical = ctl_args_bool(a, "physical");
    ctl_answer_free(ctl_ask(c, &ctl_method_compact, &request));
    printf("compacted revision %" PRId64 "\n", request.revision);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag compaction_flags[] = {
    CTL_BOOL("physical", "'true' to wait for compaction to physically remove all old revisions"),
    CTL_FLAGS_END};
const struct ctl_command cmd_compaction = {
    .use = "compaction [options] <revision>",
    .summary = "Compacts the event history in etcd",
    .flags = compaction_flags,
    .run = run_compaction,
};
