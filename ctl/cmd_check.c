/*
 * check perf, check datascale: writes a load, shows progress, removes it and judges. The limits are
 * etcdctl's: nine tenths of the wanted rate, no request beyond half a second, a standard deviation
 * of at most a tenth of a second.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "lib/http/http_client.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

enum {
    KEY_BYTES = 256,
    VALUE_BYTES = 1024,
    CLIENTS_PER_CONNECTION = 10,
    PUMP_MS = 5,
    PROGRESS_MS = 200,
    ERRORS_MAX = 8, /* different texts that are shown */
    SCRAPE_BYTES_MAX = 8 * 1024 * 1024,
};

struct load {
    struct ctl *c;
    struct ctl_client **clients;
    size_t client_count, next_client;
    size_t in_flight_max, in_flight;
    double rate;    /* per second; 0: as fast as it goes */
    uint64_t count; /* 0: until `seconds` are over */
    uint64_t seconds;
    const char *prefix;
    uint64_t start_ns, issued, answered, failed;
    double slowest, sum, sum_squares; /* seconds */
    uint64_t random;
    uint8_t value[VALUE_BYTES];
    struct {
        char *text;
        uint64_t count;
    } errors[ERRORS_MAX];
    size_t error_count;
    bool issuing;
};

struct request {
    struct load *load;
    uint64_t start_ns;
};

static uint64_t random_next(struct load *l)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return l->random;
}

static void note_error(struct load *l, const char *text)
{
    l->failed++;
    for (size_t i = 0; i < l->error_count; i++)
        if (strcmp(l->errors[i].text, text) == 0) {
            l->errors[i].count++;
            return;
        }
    if (l->error_count < ERRORS_MAX) {
        l->errors[l->error_count].text = xstrdup(text);
        l->errors[l->error_count++].count = 1;
    }
}

static void load_issue(struct load *l);

static void on_message(void *user, struct bytes message)
{
    (void)user;
}

static void on_done(void *user, int code, const char *message)
{
    struct request *r = user;
    struct load *l = r->load;
    double took = (double)(loop_clock_ns() - r->start_ns) / 1e9;

    l->in_flight--;
    l->answered++;
    if (code != 0) {
        note_error(l, message);
    } else {
        l->sum += took;
        l->sum_squares += took * took;
        l->slowest = MAX(l->slowest, took);
    }
    free(r);
    load_issue(l);
}

static void put_one(struct load *l)
{
    static const struct ctl_call_handler handler = {.on_message = on_message, .on_done = on_done};
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    struct request *r = xmalloc(sizeof(*r));
    uint8_t key[KEY_BYTES + 256];
    size_t prefix_len = MIN(strlen(l->prefix), (size_t)256);

    memcpy(key, l->prefix, prefix_len);
    for (size_t i = 0; i < KEY_BYTES; i++)
        key[prefix_len + i] = 'a' + (uint8_t)(random_next(l) % 26);
    put.key = (ProtobufCBinaryData){.data = key, .len = prefix_len + KEY_BYTES};
    put.value = (ProtobufCBinaryData){.data = l->value, .len = VALUE_BYTES};
    *r = (struct request){.load = l, .start_ns = loop_clock_ns()};
    l->issued++;
    l->in_flight++;
    ctl_call_start(l->clients[l->next_client++ % l->client_count],
                   &(struct ctl_call_args){.method = &ctl_method_put,
                                           .request = &put.base,
                                           .timeout_ms = l->c->command_ms,
                                           .handler = &handler,
                                           .user = r});
}

static bool load_over(const struct load *l)
{
    return l->count != 0 ? l->issued >= l->count
                         : loop_clock_ns() >= l->start_ns + l->seconds * UINT64_C(1000000000);
}

static void load_issue(struct load *l)
{
    if (l->issuing)
        return;
    l->issuing = true;
    while (l->in_flight < l->in_flight_max && !load_over(l)) {
        if (l->rate > 0 &&
            (double)l->issued >= l->rate * (double)(loop_clock_ns() - l->start_ns) / 1e9 + 1)
            break;
        put_one(l);
    }
    l->issuing = false;
}

static void on_pump(void *user)
{
    load_issue(user);
}

static void show_progress(const struct load *l, bool last)
{
    uint64_t total = l->count != 0 ? l->count : l->seconds;
    double elapsed = (double)(loop_clock_ns() - l->start_ns) / 1e9;
    uint64_t done = l->count != 0 ? l->answered : MIN((uint64_t)elapsed, l->seconds);

    if (last)
        done = MIN(total, l->count != 0 ? l->answered : total);
    printf("\r %" PRIu64 " / %" PRIu64 " %7.2f%%", done, total,
           total != 0 ? 100.0 * (double)done / (double)total : 100.0);
    if (!last && done > 0 && done < total) {
        uint64_t left = (uint64_t)(elapsed * (double)(total - done) / (double)done);

        printf(" %02" PRIu64 "m%02" PRIu64 "s", left / 60, left % 60);
    }
    if (last)
        printf(" %.0fs\n", elapsed);
    fflush(stdout);
}

static void on_progress(void *user)
{
    show_progress(user, false);
}

static void load_run(struct load *l)
{
    struct loop_timer *pump = loop_timer_new(l->c->loop, "load", on_pump, l);
    struct loop_timer *progress = loop_timer_new(l->c->loop, "progress", on_progress, l);

    l->client_count = MAX(l->in_flight_max / CLIENTS_PER_CONNECTION, (size_t)1);
    l->clients = xcalloc(l->client_count, sizeof(struct ctl_client *));
    l->random = UINT64_C(0x9e3779b97f4a7c15) ^ loop_clock_ns() ^ (uint64_t)getpid() << 32;
    for (size_t i = 0; i < VALUE_BYTES; i++)
        l->value[i] = (uint8_t)random_next(l);
    for (size_t i = 0; i < l->client_count; i++) {
        struct ctl_error error = {0};

        /* each connection goes to one of the endpoints in turn */
        l->clients[i] = ctl_connect_one(l->c, l->c->endpoints[i % l->c->endpoint_count], &error);
        if (l->clients[i] == NULL)
            ctl_die(CTL_EXIT_BAD_CONNECTION, "%s", error.message);
    }
    l->start_ns = loop_clock_ns();
    show_progress(l, false);
    loop_timer_start(pump, PUMP_MS, PUMP_MS);
    loop_timer_start(progress, PROGRESS_MS, PROGRESS_MS);
    load_issue(l);
    while (!load_over(l) || l->in_flight > 0)
        loop_run_once(l->c->loop, 100);
    loop_timer_free(pump);
    loop_timer_free(progress);
    show_progress(l, true);
    for (size_t i = 0; i < l->client_count; i++)
        ctl_client_free(l->clients[i]);
    free(l->clients);
}

/* ---- before and after ---- */

static void require_empty(struct ctl *c, const char *prefix)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RangeResponse *r;

    request.key = ctl_data(prefix);
    request.range_end = ctl_prefix_end(request.key);
    request.limit = 1;
    r = ctl_ask(c, &ctl_method_range, &request);
    if (r->n_kvs > 0)
        ctl_die(CTL_EXIT_INVALID_INPUT,
                "prefix \"%s\" has keys. Delete with '%s del --prefix %s' first", prefix,
                c->help->program, prefix);
    ctl_answer_free(r);
    if (request.range_end.len != 1 || request.range_end.data[0] != 0)
        free(request.range_end.data);
}

static void clean_up(struct ctl *c, const struct ctl_args *a, const char *prefix)
{
    Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    Etcdserverpb__DeleteRangeResponse *r;
    int64_t revision;

    request.key = ctl_data(prefix);
    request.range_end = ctl_prefix_end(request.key);
    r = ctl_ask(c, &ctl_method_delete, &request);
    revision = r->header != NULL ? r->header->revision : 0;
    ctl_answer_free(r);
    if (ctl_args_bool(a, "auto-compact")) {
        Etcdserverpb__CompactionRequest compaction = ETCDSERVERPB__COMPACTION_REQUEST__INIT;

        printf("Compacting with revision %" PRId64 "\n", revision);
        compaction.revision = revision;
        compaction.physical = true;
        ctl_answer_free(ctl_ask(c, &ctl_method_compact, &compaction));
        printf("Compacted with revision %" PRId64 "\n", revision);
    }
    if (ctl_args_bool(a, "auto-defrag")) {
        for (size_t i = 0; i < c->endpoint_count; i++) {
            Etcdserverpb__DefragmentRequest defrag = ETCDSERVERPB__DEFRAGMENT_REQUEST__INIT;
            struct ctl_error error = {0};
            struct ctl_client *client = ctl_connect_one(c, c->endpoints[i], &error);
            ProtobufCMessage *answer = NULL;

            printf("Defragmenting \"%s\"\n", c->endpoints[i]);
            if (client == NULL || ctl_client_unary(client, &ctl_method_defragment, &defrag.base,
                                                   c->command_ms, &answer, &error) != 0)
                ctl_die(CTL_EXIT_ERROR, "%s", error.message);
            printf("Defragmented \"%s\"\n", c->endpoints[i]);
            ctl_answer_free(answer);
            ctl_client_free(client);
        }
    }
}

struct model {
    const char *names[4];
    size_t clients;
    uint64_t amount; /* writes per second, or pairs */
};

static const struct model *find_model(const struct model *models, const char *name)
{
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < ARRAY_LEN(models[i].names) && models[i].names[j] != NULL; j++)
            if (strcmp(models[i].names[j], name) == 0)
                return &models[i];
    ctl_die(CTL_EXIT_BAD_FEATURE, "unknown load option %s", name);
}

static void print_errors(const struct load *l)
{
    if (l->failed == 0)
        return;
    puts("FAIL: too many errors");
    for (size_t i = 0; i < l->error_count; i++)
        printf("FAIL: ERROR(%s) -> %" PRIu64 "\n", l->errors[i].text, l->errors[i].count);
}

/* ---- perf ---- */

static int run_perf(struct ctl *c, struct ctl_args *a)
{
    static const struct model models[] = {{{"s", "small"}, 50, 150},
                                          {{"m", "medium"}, 200, 1000},
                                          {{"l", "large"}, 500, 8000},
                                          {{"xl", "xLarge"}, 1000, 15000}};
    const struct model *model = find_model(models, ctl_args_string(a, "load"));
    struct load l = {.c = c,
                     .in_flight_max = model->clients,
                     .rate = (double)model->amount,
                     .seconds = (uint64_t)MAX(ctl_args_int(a, "duration"), (int64_t)1),
                     .prefix = ctl_args_string(a, "prefix")};
    double per_second, mean, deviation, good;
    bool ok;

    require_empty(c, l.prefix);
    load_run(&l);
    clean_up(c, a, l.prefix);
    good = (double)(l.answered - l.failed);
    per_second = good / (double)l.seconds;
    mean = good > 0 ? l.sum / good : 0;
    deviation = good > 0 ? sqrt(MAX(l.sum_squares / good - mean * mean, 0.0)) : 0;
    ok = l.failed == 0;
    print_errors(&l);
    if (per_second / l.rate <= 0.9) {
        printf("FAIL: Throughput too low: %d writes/s\n", (int)per_second + 1);
        ok = false;
    } else {
        printf("PASS: Throughput is %d writes/s\n", (int)(per_second + 0.5));
    }
    if (l.slowest > 0.5) {
        printf("Slowest request took too long: %fs\n", l.slowest);
        ok = false;
    } else {
        printf("PASS: Slowest request took %fs\n", l.slowest);
    }
    if (deviation > 0.1) {
        printf("Stddev too high: %fs\n", deviation);
        ok = false;
    } else {
        printf("PASS: Stddev is %fs\n", deviation);
    }
    puts(ok ? "PASS" : "FAIL");
    return ok ? CTL_EXIT_SUCCESS : CTL_EXIT_ERROR;
}

static const struct ctl_flag perf_flags[] = {
    CTL_BOOL("auto-compact", "Compact storage with last revision after test is finished."),
    CTL_BOOL("auto-defrag", "Defragment storage after test is finished."),
    {.name = "duration", .type = CTL_FLAG_INT, .initial = "60", .hidden = true},
    CTL_STRING("load", "s",
               "The performance check's workload model. Accepted workloads: s(small), m(medium), "
               "l(large), xl(xLarge)"),
    CTL_STRING("prefix", "/etcdctl-check-perf/",
               "The prefix for writing the performance check's keys."),
    CTL_FLAGS_END};
static const struct ctl_command cmd_perf = {.use = "perf [options]",
                                            .summary = "Check the performance of the etcd cluster",
                                            .flags = perf_flags,
                                            .run = run_perf};

/* ---- datascale ---- */

struct scrape {
    struct buf body;
    bool done;
};

static void on_scrape_data(void *user, struct http_call *call, struct bytes data)
{
    struct scrape *s = user;

    if (s->body.len + data.len < SCRAPE_BYTES_MAX)
        buf_append_bytes(&s->body, data);
}

static void on_scrape_closed(void *user, struct http_call *call, int error)
{
    struct scrape *s = user;

    s->done = true;
}

/* The figure of one metric in the text format; -1: not there. */
static double metric_of(const char *text, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = text; line != NULL && *line != '\0';) {
        if (strncmp(line, name, len) == 0 && line[len] == ' ')
            return strtod(line + len, NULL);
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return -1;
}

static double resident_bytes(struct ctl *c)
{
    static const struct http_call_handler handler = {.on_data = on_scrape_data,
                                                     .on_closed = on_scrape_closed};
    const char *text = c->endpoints[0];
    bool secure = c->tls != NULL;
    CLEANUP(freep) char *host = NULL;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    char address[64];
    const char *colon;
    struct http_client *client;
    struct scrape s = {.body = BUF_INIT};
    double value = -1;

    if (strncmp(text, "http://", 7) == 0)
        text += 7;
    else if (strncmp(text, "https://", 8) == 0)
        text += 8;
    colon = strrchr(text, ':');
    if (colon == NULL)
        return -1;
    host = *text == '[' ? xstrndup(text + 1, (size_t)(colon - text) - 2)
                        : xstrndup(text, (size_t)(colon - text));
    if (getaddrinfo(host, NULL, &hints, &list) != 0)
        return -1;
    if (getnameinfo(list->ai_addr, list->ai_addrlen, address, sizeof(address), NULL, 0,
                    NI_NUMERICHOST) != 0)
        address[0] = '\0';
    freeaddrinfo(list);
    client = http_client_connect(c->loop, address, (uint16_t)atoi(colon + 1),
                                 &(struct http_client_options){.version = HTTP_VERSION_1_1,
                                                               .connect_ms_max = c->dial_ms,
                                                               .tls = secure ? c->tls : NULL,
                                                               .tls_name = host},
                                 NULL, NULL);
    if (client == NULL)
        return -1;
    if (http_call_start(client, &(struct http_call_args){.method = BYTES_LIT("GET"),
                                                         .path = BYTES_LIT("/metrics"),
                                                         .deadline_ms = c->command_ms,
                                                         .handler = &handler,
                                                         .user = &s}) != NULL)
        while (!s.done)
            loop_run_once(c->loop, 1000);
    http_client_free(client);
    buf_append_u8(&s.body, 0);
    value = metric_of((const char *)s.body.data, "process_resident_memory_bytes");
    buf_fini(&s.body);
    return value;
}

static int run_datascale(struct ctl *c, struct ctl_args *a)
{
    static const struct model models[] = {{{"s", "small"}, 50, 10000},
                                          {{"m", "medium"}, 200, 100000},
                                          {{"l", "large"}, 500, 1000000},
                                          {{"xl", "xLarge"}, 1000, 3000000}};
    const struct model *model = find_model(models, ctl_args_string(a, "load"));
    struct load l = {.c = c,
                     .in_flight_max = model->clients,
                     .count = model->amount,
                     .prefix = ctl_args_string(a, "prefix")};
    double before, after;

    require_empty(c, l.prefix);
    before = resident_bytes(c);
    if (before <= 0) {
        puts("FAIL: Could not read process_resident_memory_bytes before the put operations.");
        return CTL_EXIT_ERROR;
    }
    printf("Start data scale check for work load [%" PRIu64
           " key-value pairs, %d bytes per key-value, %zu concurrent clients].\n",
           model->amount, VALUE_BYTES, model->clients);
    load_run(&l);
    after = resident_bytes(c);
    clean_up(c, a, l.prefix);
    if (after <= 0) {
        puts("FAIL: Could not read process_resident_memory_bytes after the put operations.");
        return CTL_EXIT_ERROR;
    }
    if (l.failed > 0) {
        print_errors(&l);
        return CTL_EXIT_ERROR;
    }
    printf("PASS: Approximate system memory used : %.2f MB.\n", (after - before) / (1024 * 1024));
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag datascale_flags[] = {
    CTL_BOOL("auto-compact", "Compact storage with last revision after test is finished."),
    CTL_BOOL("auto-defrag", "Defragment storage after test is finished."),
    CTL_STRING("load", "s",
               "The datascale check's workload model. Accepted workloads: s(small), m(medium), "
               "l(large), xl(xLarge)"),
    CTL_STRING("prefix", "/etcdctl-check-datascale/",
               "The prefix for writing the datascale check's keys."),
    CTL_FLAGS_END};
static const struct ctl_command cmd_datascale = {
    .use = "datascale [options]",
    .summary = "Check the memory usage of holding data for different workloads on a given server "
               "endpoint.",
    .description = "The first endpoint is the one whose memory is read.",
    .flags = datascale_flags,
    .run = run_datascale};

static const struct ctl_command *const children[] = {&cmd_perf, &cmd_datascale, NULL};
const struct ctl_command cmd_check = {.use = "check <subcommand>",
                                      .summary =
                                          "commands for checking properties of the etcd cluster",
                                      .children = children};
