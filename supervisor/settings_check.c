/*
 * What settings mean together. First etcd's rules in etcd's order with its texts, then what this
 * version cannot do, then the defaults that depend on other settings.
 */
#include "supervisor/settings.h"

#include <assert.h>
#include <errno.h>
#include <ifaddrs.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "lib/conf/conf.h"
#include "lib/util/xmalloc.h"
#include "supervisor/listen.h"

enum {
    ELECTION_MS_MAX = 50000,
    GATEWAY_COUNT_MAX = 16,
    /* above this etcd warns */
    REQUEST_BYTES_RECOMMENDED_MAX = 10 << 20,
    COMPACTION_BATCH_MAX = 1000000,
    /* a request travels in one frame of at most 64 MiB (IPC_FRAME_BYTES_MAX), with company */
    REQUEST_BYTES_MAX = 32 << 20,
};

static bool is_unix(const struct url *u)
{
    return strncmp(u->scheme, "unix", 4) == 0;
}

void settings_set(struct settings *s, const char *name, char *text)
{
    struct setting_value *v = &s->values[settings_find(name)];

    free(v->text);
    v->text = text; /* the source stays: derived values count as not given */
}

static int check_logging(struct settings *s, struct settings_error *e)
{
    const char *logger = settings_text(s, "logger");
    const char *log_format = settings_text(s, "log-format");
    const char *metrics = settings_text(s, "metrics");
    CLEANUP(freep) char *why = NULL;

    if (*logger != '\0' && strcmp(logger, "zap") != 0 && strcmp(logger, "capnslog") != 0)
        return settings_error_at(s, "logger", e, "unknown logger option \"%s\"", logger);
    if (*log_format != '\0' && strcmp(log_format, "json") != 0 && strcmp(log_format, "console") != 0)
        return settings_error_at(s, "log-format", e, "unknown log format option \"%s\"", log_format);
    if (settings_check_levels(settings_text(s, "log-level"), &why) < 0)
        return settings_error_at(s, "log-level", e, "%s", why);
    if (strcmp(metrics, "basic") != 0 && strcmp(metrics, "extensive") != 0)
        return settings_error_at(s, "metrics", e, "metrics must be basic or extensive, not \"%s\"",
                                 metrics);
    return 0;
}

static int check_listen_urls(struct settings *s, const char *name, struct settings_error *e)
{
    CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, name);

    for (size_t i = 0; i < l.count; i++) {
        struct sockaddr_storage address;
        socklen_t len;

        if (!is_unix(&l.items[i]) && !listener_address(&l.items[i], &address, &len))
            return settings_error_at(s, name, e, "expected IP in URL for binding (%s)",
                                     l.items[i].text);
    }
    return 0;
}

static int check_advertised_urls(struct settings *s, const char *name, struct settings_error *e)
{
    CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, name);

    for (size_t i = 0; i < l.count; i++) {
        if (!is_unix(&l.items[i]) && l.items[i].host[0] == '\0')
            return settings_error_at(s, name, e,
                                     "--%s \"%s\" must be \"host:port\" (unexpected empty host "
                                     "(%s))",
                                     name, settings_text(s, name), l.items[i].text);
    }
    return 0;
}

static int check_discovery(struct settings *s, struct settings_error *e)
{
    bool endpoints = *settings_text(s, "discovery-endpoints") != '\0';
    bool any = *settings_text(s, "discovery") != '\0' ||
               *settings_text(s, "discovery-srv") != '\0' || endpoints;
    int ways = (*settings_text(s, "discovery") != '\0') +
               (*settings_text(s, "discovery-srv") != '\0') + endpoints;

    /* a default initial cluster steps back for discovery */
    if (any && !settings_is_given(s, "initial-cluster"))
        settings_set(s, "initial-cluster", xstrdup(""));
    if (*settings_text(s, "initial-cluster") != '\0')
        ways++;
    if (ways > 1)
        return settings_error_set(e, 1,
                                  "multiple discovery or bootstrap flags are set. Choose one of "
                                  "\"initial-cluster\", \"discovery\", \"discovery-endpoints\" or "
                                  "\"discovery-srv\"");
    if (endpoints != (*settings_text(s, "discovery-token") != '\0'))
        return settings_error_set(e, 1,
                                  "both --discovery-token and --discovery-endpoints must be set");
    return 0;
}

static int check_times(struct settings *s, struct settings_error *e)
{
    uint64_t heartbeat = settings_u64(s, "heartbeat-interval");
    uint64_t election = settings_u64(s, "election-timeout");

    if (heartbeat == 0)
        return settings_error_at(s, "heartbeat-interval", e,
                                 "--heartbeat-interval must be >0 (set to 0ms)");
    if (election == 0)
        return settings_error_at(s, "election-timeout", e,
                                 "--election-timeout must be >0 (set to 0ms)");
    if (heartbeat > election / 5)
        return settings_error_at(s,
                                 settings_is_given(s, "election-timeout") ? "election-timeout"
                                                                         : "heartbeat-interval",
                                 e,
                                 "--election-timeout[%" PRIu64 "ms] should be at least as 5 times "
                                 "as --heartbeat-interval[%" PRIu64 "ms]",
                                 election, heartbeat);
    if (election > ELECTION_MS_MAX)
        return settings_error_at(s, "election-timeout", e,
                                 "--election-timeout[%" PRIu64 "ms] is too long, and should be set "
                                 "less than %dms",
                                 election, ELECTION_MS_MAX);
    return 0;
}

static int check_advertise_given(struct settings *s, struct settings_error *e)
{
    const struct setting_value *listen = &s->values[settings_find("listen-client-urls")];

    /* etcd's files are free to leave it out */
    if (listen->source == SOURCE_DEFAULT || s->file != NULL ||
        settings_is_given(s, "advertise-client-urls") ||
        strcmp(settings_text(s, "proxy"), "off") != 0)
        return 0;
    return settings_error_set(e, 1,
                              "--advertise-client-urls is required when --listen-client-urls is set "
                              "explicitly\nWhen listening on specific address(es), this process "
                              "must advertise accessible url(s) to each connected client.");
}

static int check_compaction(struct settings *s, struct settings_error *e)
{
    const char *mode = settings_text(s, "auto-compaction-mode");
    const char *retention = settings_text(s, "auto-compaction-retention");
    uint64_t n;

    if (*mode == '\0')
        return settings_error_at(s, "auto-compaction-mode", e, "undefined auto-compaction-mode");
    if (strcmp(mode, "periodic") != 0 && strcmp(mode, "revision") != 0)
        return settings_error_at(s, "auto-compaction-mode", e, "unknown auto-compaction-mode \"%s\"",
                                 mode);
    if (*retention != '\0' && conf_parse_u64(retention, &n) < 0 &&
        conf_parse_duration(retention, &n) < 0)
        return settings_error_at(s, "auto-compaction-retention", e,
                                 "error parsing CompactionRetention: \"%s\" is neither a number nor "
                                 "a duration",
                                 retention);
    return 0;
}

static int check_limits(struct settings *s, struct settings_error *e)
{
    static const char *const at_least_one[] = {"max-request-bytes", "max-txn-ops",
                                               "max-concurrent-streams", "checkpoint-entries"};
    uint64_t gateways = settings_u64(s, "gateway-count");
    uint64_t request_bytes = settings_u64(s, "max-request-bytes");
    const char *name = settings_text(s, "name");

    if (gateways < 1 || gateways > GATEWAY_COUNT_MAX)
        return settings_error_at(s, "gateway-count", e,
                                 "gateway-count must be 1 to %d (set to %" PRIu64 ")",
                                 GATEWAY_COUNT_MAX, gateways);
    for (size_t i = 0; i < ARRAY_LEN(at_least_one); i++) {
        if (settings_u64(s, at_least_one[i]) == 0)
            return settings_error_at(s, at_least_one[i], e, "%s must be at least 1 (set to 0)",
                                     at_least_one[i]);
    }
    if (request_bytes > REQUEST_BYTES_MAX)
        return settings_error_at(s, "max-request-bytes", e,
                                 "max-request-bytes must be at most %d (set to %" PRIu64 ")",
                                 REQUEST_BYTES_MAX, request_bytes);
    if (request_bytes > REQUEST_BYTES_RECOMMENDED_MAX)
        settings_notice(s, true,
                        "exceeded recommended request limit: max-request-bytes is %" PRIu64
                        ", recommended are at most %d",
                        request_bytes, REQUEST_BYTES_RECOMMENDED_MAX);
    if (strtoll(settings_text(s, "compaction-batch-limit"), NULL, 10) < 0 ||
        strtoll(settings_text(s, "compaction-batch-limit"), NULL, 10) > COMPACTION_BATCH_MAX)
        return settings_error_at(s, "compaction-batch-limit", e,
                                 "compaction-batch-limit must be 0 to %d (set to %s)",
                                 COMPACTION_BATCH_MAX, settings_text(s, "compaction-batch-limit"));
    if (strchr(name, ',') != NULL || strchr(name, '=') != NULL)
        return settings_error_at(s, "name", e,
                                 "name \"%s\" must not contain ',' or '=', which initial-cluster "
                                 "uses to separate",
                                 name);
    return 0;
}

/* Settings that this version does not act on: one notice each for those that cannot matter and for
 * those that will, an end for those whose absence would be dangerous. */
static int check_effects(struct settings *s, struct settings_error *e)
{
    CLEANUP(buf_fini) struct buf meaningless = BUF_INIT;
    CLEANUP(buf_fini) struct buf later = BUF_INIT;

    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];
        struct buf *list = d->effect == SETTING_MEANINGLESS ? &meaningless : &later;
        const char *def = d->def != NULL ? d->def : "";
        const char *value = settings_text(s, d->name);
        CLEANUP(freep) char *why = NULL;
        struct setting_layer normal;
        bool is_default;

        if (d->effect == SETTING_ACTIVE || s->values[i].source == SOURCE_DEFAULT)
            continue;
        setting_layer_init(&normal); /* the default in the same normal form as the value */
        is_default = setting_put(&normal, i, def, SOURCE_DEFAULT, &why) == 0 &&
                     strcmp(normal.values[i].text, value) == 0;
        setting_layer_fini(&normal);
        if (is_default)
            continue;
        if (d->effect == SETTING_REFUSED) {
            if (s->values[i].source == SOURCE_FILE)
                return settings_error_at(s, d->name, e, "not available in this version");
            return settings_error_set(e, 1, "--%s is not available in this version", d->name);
        }
        buf_appendf(list, "%s%s", list->len > 0 ? ", " : "", d->name);
    }
    if (meaningless.len > 0)
        settings_notice(s, false, "accepted, without effect here: %.*s", (int)meaningless.len,
                        (const char *)meaningless.data);
    if (later.len > 0)
        settings_notice(s, true, "accepted, but not acted on by this version: %.*s", (int)later.len,
                        (const char *)later.data);
    return 0;
}

/* The address of the interface that holds the IPv4 default route, as etcd advertises it when told to
 * listen on 0.0.0.0. Connecting a datagram socket asks the routing table and sends nothing. */
static char *default_route_address(void)
{
    CLEANUP(closep) int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)}, from = {0};
    socklen_t len = sizeof(from);
    char text[INET_ADDRSTRLEN];

    to.sin_addr.s_addr = htonl(0xc0000201); /* 192.0.2.1, RFC 5737: nowhere, so by default route */
    if (fd < 0 || connect(fd, (const struct sockaddr *)&to, sizeof(to)) < 0 ||
        getsockname(fd, (struct sockaddr *)&from, &len) < 0 ||
        inet_ntop(AF_INET, &from.sin_addr, text, sizeof(text)) == NULL)
        return NULL;
    return xstrdup(text);
}

static void advertise_default_host(struct settings *s, const char *listen, const char *advertise)
{
    CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, listen);
    CLEANUP(freep) char *host = NULL;

    if (l.count == 0 || strcmp(l.items[0].host, "0.0.0.0") != 0 ||
        strcmp(settings_text(s, advertise), setting_defs[settings_find(advertise)].def) != 0)
        return;
    host = default_route_address();
    if (host == NULL)
        return;
    settings_set(s, advertise, xasprintf("http://%s:%s", host, l.items[0].port));
    settings_notice(s, false, "advertising using detected default host \"%s\"", host);
}

static void replace_zero(struct settings *s, const char *name, const char *value)
{
    const char *text = settings_text(s, name);

    if (strcmp(text, "0") == 0 || strcmp(text, "0ns") == 0)
        settings_set(s, name, xstrdup(value));
}

static void derive(struct settings *s)
{
    const char *default_cluster = setting_defs[settings_find("initial-cluster")].def;
    const char *name;

    if (*settings_text(s, "name") == '\0')
        settings_set(s, "name", xstrdup("default"));
    name = settings_text(s, "name");
    advertise_default_host(s, "listen-peer-urls", "initial-advertise-peer-urls");
    advertise_default_host(s, "listen-client-urls", "advertise-client-urls");
    if (strcmp(name, "default") != 0 &&
        strcmp(settings_text(s, "initial-cluster"), default_cluster) == 0) {
        CLEANUP(setting_urls_fini) struct setting_urls l = settings_urls(s, "initial-advertise-peer-urls");
        struct buf b = BUF_INIT;

        for (size_t i = 0; i < l.count; i++)
            buf_appendf(&b, "%s%s=%s", i > 0 ? "," : "", name, l.items[i].text);
        buf_append_u8(&b, '\0');
        settings_set(s, "initial-cluster", (char *)b.data);
    }
    if (*settings_text(s, "data-dir") == '\0')
        settings_set(s, "data-dir", xasprintf("%s.etcd", name));
    settings_derive_tls(s);
    replace_zero(s, "snapshot-count", "10000");
    replace_zero(s, "snapshot-catchup-entries", "5000");
    replace_zero(s, "quota-backend-bytes", "2147483648");
    replace_zero(s, "compaction-batch-limit", "1000");
    replace_zero(s, "compaction-sleep-interval", "10000000ns");
    replace_zero(s, "watch-progress-notify-interval", "600000000000ns");
    if (settings_duration_ms(s, "child-watchdog-timeout") == 0)
        settings_set(s, "child-watchdog-timeout",
            xasprintf("%" PRIu64 "ms", MAX(30000, 10 * settings_u64(s, "election-timeout"))));
}

int settings_check(struct settings *s, struct settings_error *e)
{
    static const char *const listens[] = {"listen-peer-urls", "listen-client-urls",
                                          "listen-client-http-urls", "listen-metrics-urls"};
    int r;

    r = check_logging(s, e);
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(listens); i++)
        r = check_listen_urls(s, listens[i], e);
    if (r < 0 || (r = check_advertised_urls(s, "initial-advertise-peer-urls", e)) < 0 ||
        (r = check_advertised_urls(s, "advertise-client-urls", e)) < 0 ||
        (r = check_discovery(s, e)) < 0 || (r = check_times(s, e)) < 0 ||
        (r = check_advertise_given(s, e)) < 0 || (r = check_compaction(s, e)) < 0 ||
        (r = check_limits(s, e)) < 0)
        return r;
    r = settings_check_tls(s, e);
    if (r == 0)
        r = check_effects(s, e);
    if (r < 0)
        return r;
    derive(s);
    return 0;
}
