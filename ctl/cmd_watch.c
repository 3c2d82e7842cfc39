/*
 * watch: events of keys as they happen, to standard output or to a command per event; also with
 * the watches given line by line on standard input. The key may come from ETCDCTL_WATCH_KEY and
 * ETCDCTL_WATCH_RANGE_END.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_text.h"
#include "ctl/ctl_watch.h"
#include "ctl/print.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

struct watching {
    struct ctl *c;
    struct watching *next; /* of the interactive ones */
    struct ctl_watch *watch;
    ProtobufCBinaryData key, range_end;
    const char **command; /* NULL: print only; ended by NULL */
    bool ended;
};

/* ---- the command per event ---- */

static char *quoted_variable(const char *name, ProtobufCBinaryData value)
{
    struct buf text = BUF_INIT;

    buf_appendf(&text, "%s=", name);
    ctl_text_quote(&text, value.data, value.len);
    buf_append_u8(&text, 0);
    return (char *)text.data;
}

static void run_command(const struct watching *w, int64_t revision, const Mvccpb__Event *e)
{
    ProtobufCBinaryData type =
        ctl_data(e->type == MVCCPB__EVENT__EVENT_TYPE__PUT ? "PUT" : "DELETE");
    const char *env[] = {xasprintf("ETCD_WATCH_REVISION=%" PRId64, revision),
                         quoted_variable("ETCD_WATCH_EVENT_TYPE", type),
                         quoted_variable("ETCD_WATCH_KEY", e->kv->key),
                         quoted_variable("ETCD_WATCH_VALUE", e->kv->value)};
    char *why = NULL;
    int status = ctl_run(NULL, w->command, env, ARRAY_LEN(env), &why);

    for (size_t i = 0; i < ARRAY_LEN(env); i++)
        free((char *)(uintptr_t)env[i]);
    if (status != 0) {
        struct buf text = BUF_INIT;

        for (size_t i = 0; w->command[i] != NULL; i++) {
            buf_append_u8(&text, i == 0 ? '[' : ' ');
            ctl_text_quote(&text, w->command[i], strlen(w->command[i]));
        }
        if (status > 128 && why == NULL)
            why = ctl_signal_text(status - 128);
        if (why == NULL)
            why = xasprintf("exit status %d", status);
        fprintf(stderr, "command %.*s] error (%s)\n", (int)text.len, text.data, why);
        ctl_exit(CTL_EXIT_ERROR);
    }
}

/* ---- answers ---- */

static void on_response(void *user, const Etcdserverpb__WatchResponse *r)
{
    struct watching *w = user;

    if (r->canceled) {
        CLEANUP(freep) char *why = ctl_watch_reason(r);

        fprintf(stderr, "watch was canceled (%s)\n", why);
    } else if (r->n_events == 0) {
        printf("progress notify: %" PRId64 "\n", r->header != NULL ? r->header->revision : 0);
    }
    print_watch(w->c, r);
    for (size_t i = 0; w->command != NULL && i < r->n_events; i++)
        run_command(w, r->header != NULL ? r->header->revision : 0, r->events[i]);
}

static void on_ended(void *user, const char *message)
{
    struct watching *w = user;

    w->ended = true;
}

/* ---- arguments ---- */

/* The environment's key, unless it is empty. Dies when only the end is given. */
static const char *environment_key(const char **ret_range_end)
{
    const char *key = getenv("ETCDCTL_WATCH_KEY"), *end = getenv("ETCDCTL_WATCH_RANGE_END");

    if (key != NULL && *key == '\0')
        key = NULL;
    if (end != NULL && *end == '\0')
        end = NULL;
    if (key == NULL && end != NULL)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END=\"%s\"", end);
    *ret_range_end = end;
    return key;
}

/* What to watch and what to run, from a parsed line. 0, or -EINVAL and *ret_error. */
static int watching_parse(struct watching *w, const struct ctl_args *a, char **ret_error)
{
    const char *end, *key = environment_key(&end);
    size_t keys = a->dash != SIZE_MAX ? a->dash : a->argc;
    const char *texts[2] = {key, end};
    size_t count = key != NULL ? (end != NULL ? 2 : 1) : 0;

    if (a->dash != SIZE_MAX && a->dash == a->argc) {
        *ret_error = xstrdup("bad number of arguments (found separator --, but no commands)");
        return -EINVAL;
    }
    if (key != NULL && keys > 0) {
        *ret_error = xstrdup("bad number of arguments (found conflicting environment key)");
        return -EINVAL;
    }
    if (key == NULL) {
        if (keys == 0 || keys > 2) {
            *ret_error = xstrdup("bad number of arguments");
            return -EINVAL;
        }
        count = keys;
        for (size_t i = 0; i < keys; i++)
            texts[i] = a->argv[i];
    }
    if (count == 2 && ctl_args_bool(a, "prefix")) {
        *ret_error = xstrdup("`range_end` and `--prefix` are mutually exclusive");
        return -EINVAL;
    }
    w->key = ctl_data(texts[0]);
    if (count == 2)
        w->range_end = ctl_data(texts[1]);
    if (ctl_args_bool(a, "prefix")) {
        w->range_end = w->key.len == 0 ? ctl_zero_byte() : ctl_prefix_end(w->key);
        if (w->key.len == 0)
            w->key = ctl_zero_byte();
    }
    if (a->dash != SIZE_MAX)
        w->command = a->argv + a->dash;
    return 0;
}

static void watching_start(struct watching *w, const struct ctl_args *a)
{
    w->watch = ctl_watch_new(w->c->loop, ctl_connect(w->c),
                             &(struct ctl_watch_args){
                                 .key = w->key,
                                 .range_end = w->range_end,
                                 .revision = ctl_args_int(a, "rev"),
                                 .prev_kv = ctl_args_bool(a, "prev-kv"),
                                 .progress_notify = ctl_args_bool(a, "progress-notify"),
                                 .on_response = on_response,
                                 .on_ended = on_ended,
                                 .user = w,
                             });
}

/* ---- interactive ---- */

struct session {
    struct ctl *c;
    struct watching *watches;
    struct buf input;
};

static void session_line(struct session *s, char *line)
{
    char **words = NULL, *why = NULL;
    const char *end;
    size_t count = 0;
    struct ctl_args *a;
    struct watching *w;

    if (ctl_split_words(line, &words, &count) != 0 || count == 0 ||
        (strcmp(words[0], "watch") != 0 && strcmp(words[0], "progress") != 0)) {
        fprintf(stderr, "Invalid command %s (only support watch)\n", line);
        ctl_words_free(words, count);
        return;
    }
    if (strcmp(words[0], "progress") == 0) {
        for (w = s->watches; w != NULL; w = w->next)
            ctl_watch_request_progress(w->watch);
        ctl_words_free(words, count);
        return;
    }
    if (count == 1 && environment_key(&end) == NULL) {
        fprintf(stderr, "Invalid command %s (command type or key is not provided)\n", line);
        ctl_words_free(words, count);
        return;
    }
    if (strcmp(words[count - 1], "--") == 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "bad number of arguments (found separator --, but no commands)");
    a = xcalloc(1, sizeof(*a)); /* the watch borrows from it and from the words */
    w = xcalloc(1, sizeof(*w));
    w->c = s->c;
    if (ctl_args_parse_flags(&cmd_watch, (const char *const *)words + 1, count - 1, a, &why) !=
            CTL_PARSE_OK ||
        watching_parse(w, a, &why) != 0) {
        fprintf(stderr, "Invalid command %s (%s)\n", line, why);
        free(why);
        free(w);
        ctl_args_fini(a);
        free(a);
        ctl_words_free(words, count);
        return;
    }
    w->next = s->watches;
    s->watches = w;
    watching_start(w, a);
}

static void on_input(void *user, unsigned int events)
{
    struct session *s = user;
    uint8_t *newline;
    ssize_t n = read(STDIN_FILENO, buf_reserve(&s->input, 4096), 4096);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        ctl_die(CTL_EXIT_INVALID_INPUT, "error reading watch request line: EOF");
    s->input.len += (size_t)n;
    while ((newline = memchr(s->input.data, '\n', s->input.len)) != NULL) {
        size_t len = (size_t)(newline - s->input.data);
        CLEANUP(freep) char *line = xstrndup((const char *)s->input.data, len);

        buf_consume(&s->input, len + 1);
        session_line(s, line);
    }
}

/* Standard input that is a file cannot be waited for; it is read at once. */
NORETURN static void run_interactive(struct ctl *c)
{
    struct session s = {.c = c};
    struct loop_io *io;

    ctl_connect(c);
    io = loop_io_new(c->loop, "stdin", STDIN_FILENO, on_input, &s);
    if (io == NULL)
        for (;;)
            on_input(&s, LOOP_READ);
    loop_io_set(io, LOOP_READ);
    for (;;)
        loop_run_once(c->loop, 1000);
}

static int run_watch(struct ctl *c, struct ctl_args *a)
{
    struct watching w = {.c = c};
    char *why = NULL;

    if (ctl_args_bool(a, "interactive"))
        run_interactive(c);
    if (watching_parse(&w, a, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "%s", why);
    watching_start(&w, a);
    while (!w.ended)
        loop_run_once(c->loop, 1000);
    ctl_watch_free(w.watch);
    ctl_die(CTL_EXIT_INTERRUPTED, "watch is canceled by the server");
}

static const struct ctl_flag watch_flags[] = {
    {.name = "interactive",
     .type = CTL_FLAG_BOOL,
     .initial = "false",
     .shorthand = 'i',
     .usage = "Interactive mode"},
    CTL_BOOL("prefix", "Watch on a prefix if prefix is set"),
    CTL_BOOL("prev-kv", "get the previous key-value pair before the event happens"),
    CTL_BOOL("progress-notify", "get periodic watch progress notification from server"),
    CTL_INT("rev", "0", "Revision to start watching"),
    CTL_FLAGS_END};
const struct ctl_command cmd_watch = {
    .use = "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
    .summary = "Watches events stream on keys or prefixes",
    .flags = watch_flags,
    .run = run_watch,
};
