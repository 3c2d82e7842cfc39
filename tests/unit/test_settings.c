/*
 * Flags, variables, precedence and the rules over several settings: what an operator types, and the
 * one line that answers a mistake.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lib/util/xmalloc.h"
#include "supervisor/settings.h"

enum { WORDS_MAX = 12 };

static char *no_env[] = {NULL};

static int load(struct settings *s, const char *const *args, char *const *env,
                enum settings_action *ret_action, struct settings_error *error)
{
    char *argv[WORDS_MAX + 2] = {(char *)(uintptr_t) "conclave"};
    int argc = 1;

    for (size_t i = 0; i < WORDS_MAX && args[i] != NULL; i++)
        argv[argc++] = (char *)(uintptr_t)args[i];
    *error = (struct settings_error){0};
    return settings_load(s, argc, argv, env, ret_action, error);
}

/* The notices as one text. */
static char *notices_of(const struct settings *s)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < s->notice_count; i++)
        buf_appendf(&b, "%s%s\n", s->notices[i].warning ? "W " : "I ", s->notices[i].text);
    buf_append_u8(&b, '\0');
    return (char *)b.data;
}

Test(settings, the_table_is_consistent)
{
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];
        struct setting_layer layer;
        char *why = NULL;

        setting_layer_init(&layer);
        cr_assert_eq(settings_find(d->name), (int)i, "%s is there twice", d->name);
        cr_assert_eq(setting_put(&layer, i, d->def != NULL ? d->def : "", SOURCE_FLAG, &why), 0,
                     "default of %s: %s", d->name, why);
        if (d->alias_of != NULL)
            cr_assert(settings_find(d->alias_of) >= 0, "%s", d->name);
        if (d->type == SETTING_ENUM)
            cr_assert_not_null(d->values, "%s", d->name);
        if (d->yaml != NULL)
            cr_assert_eq(settings_find_yaml(d->yaml), (int)i, "%s", d->yaml);
        cr_assert(d->help != NULL && d->group != NULL && d->series != NULL, "%s", d->name);
        setting_layer_fini(&layer);
    }
}

Test(settings, defaults)
{
    static const struct {
        const char *name, *value;
    } rows[] = {
        {"name", "default"},
        {"data-dir", "default.etcd"},
        {"listen-peer-urls", "http://localhost:2380"},
        {"listen-client-urls", "http://localhost:2379"},
        {"initial-advertise-peer-urls", "http://localhost:2380"},
        {"advertise-client-urls", "http://localhost:2379"},
        {"initial-cluster", "default=http://localhost:2380"},
        {"initial-cluster-state", "new"},
        {"initial-cluster-token", "etcd-cluster"},
        {"heartbeat-interval", "100"},
        {"election-timeout", "1000"},
        {"snapshot-count", "10000"},
        {"max-txn-ops", "128"},
        {"max-request-bytes", "1572864"},
        {"quota-backend-bytes", "2147483648"},
        {"pre-vote", "true"},
        {"enable-v2", "true"},
        {"enable-grpc-gateway", "true"},
        {"strict-reconfig-check", "true"},
        {"gateway-count", "1"},
        {"child-watchdog-timeout", "30000ms"},
    };
    struct settings s;
    struct settings_error e;
    enum settings_action action;

    cr_assert_eq(load(&s, (const char *[]){NULL}, no_env, &action, &e), 0, "%s", e.text);
    cr_assert_eq(action, SETTINGS_START);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        cr_assert_str_eq(settings_text(&s, rows[i].name), rows[i].value, "%s", rows[i].name);
    cr_assert_eq(s.notice_count, 0);
    settings_fini(&s);
}

Test(settings, flags_that_are_right)
{
    static const struct {
        const char *args[WORDS_MAX];
        const char *name, *value;
    } rows[] = {
        {{"--name", "a"}, "name", "a"},
        {{"-name", "a"}, "name", "a"},
        {{"--name=a"}, "name", "a"},
        {{"-name=a"}, "name", "a"},
        {{"-name=a=b", "--name=c"}, "name", "c"},
        {{"--name", "-x"}, "name", "-x"},
        {{"--data-dir="}, "data-dir", "default.etcd"},
        {{"--name=a"}, "data-dir", "a.etcd"},
        {{"--name=a"}, "initial-cluster", "a=http://localhost:2380"},
        {{"--name=a", "--initial-cluster=b=http://localhost:2380"},
         "initial-cluster",
         "b=http://localhost:2380"},
        {{"--name=a", "--initial-advertise-peer-urls=http://h:1,http://g:2"},
         "initial-cluster",
         "a=http://g:2,a=http://h:1"},
        {{"--initial-advertise-peer-urls=http://h:1"},
         "initial-cluster",
         "default=http://localhost:2380"},
        {{"--pre-vote=false"}, "pre-vote", "false"},
        {{"--pre-vote=F"}, "pre-vote", "false"},
        {{"--force-new-cluster"}, "force-new-cluster", "true"},
        {{"--force-new-cluster", "--name=a"}, "name", "a"},
        {{"--name=a", "--"}, "name", "a"},
        {{"--snapshot-count=0"}, "snapshot-count", "10000"},
        {{"--snapshot-count=0x10"}, "snapshot-count", "16"},
        {{"--quota-backend-bytes=-1"}, "quota-backend-bytes", "-1"},
        {{"--grpc-keepalive-timeout=1m30s"}, "grpc-keepalive-timeout", "90000000000ns"},
        {{"--listen-peer-urls=http://[::1]:2380, HTTP://127.0.0.1:2380"},
         "listen-peer-urls",
         "http://127.0.0.1:2380,http://[::1]:2380"},
        {{"--listen-peer-urls="}, "listen-peer-urls", "http://localhost:2380"},
        {{"--listen-client-urls=http://127.0.0.1:1", "--advertise-client-urls=http://x:1"},
         "advertise-client-urls",
         "http://x:1"},
        {{"--experimental-warning-apply-duration=7ms"}, "warning-apply-duration", "7000000ns"},
        {{"--log-output=stdout"}, "log-outputs", "stdout"},
        {{"--election-timeout=5000"}, "child-watchdog-timeout", "50000ms"},
        {{"--heartbeat-interval=200"}, "heartbeat-interval", "200"},
        {{"--vv", "--name=a"}, "name", "a"},
        {{"--feature-gates=LeaseCheckpoint=true,AllAlpha=false"},
         "feature-gates",
         "LeaseCheckpoint=true,AllAlpha=false"},
        {{"--log-level=warn,raftd=debug"}, "log-level", "warn,raftd=debug"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;

        cr_assert_eq(load(&s, rows[i].args, no_env, &action, &e), 0, "row %zu: %s", i, e.text);
        cr_assert_str_eq(settings_text(&s, rows[i].name), rows[i].value, "row %zu", i);
        settings_fini(&s);
    }
}

Test(settings, flags_that_are_wrong)
{
    static const struct {
        const char *args[WORDS_MAX];
        int status;
        const char *text;
    } rows[] = {
        {{"--bogus"}, 2, "flag provided but not defined: -bogus"},
        {{"-bogus=1"}, 2, "flag provided but not defined: -bogus"},
        {{"---name=a"}, 2, "bad flag syntax: ---name=a"},
        {{"-=a"}, 2, "bad flag syntax: -=a"},
        {{"--name"}, 2, "flag needs an argument: -name"},
        {{"--pre-vote=maybe"}, 2, "invalid boolean value \"maybe\" for -pre-vote: parse error"},
        {{"--snapshot-count=abc"}, 2, "invalid value \"abc\" for flag -snapshot-count: parse error"},
        {{"--snapshot-count=-1"}, 2, "invalid value \"-1\" for flag -snapshot-count: parse error"},
        {{"--snapshot-count", "99999999999999999999"},
         2,
         "invalid value \"99999999999999999999\" for flag -snapshot-count: value out of range"},
        {{"--max-concurrent-streams=4294967296"},
         2,
         "invalid value \"4294967296\" for flag -max-concurrent-streams: value out of range"},
        {{"--grpc-keepalive-timeout=5"},
         2,
         "invalid value \"5\" for flag -grpc-keepalive-timeout: parse error"},
        {{"--initial-cluster-state=foo"},
         2,
         "invalid value \"foo\" for flag -initial-cluster-state: invalid value"},
        {{"--proxy=foo"}, 2, "invalid value \"foo\" for flag -proxy: invalid value"},
        {{"--listen-client-urls=http://1.2.3.4"},
         2,
         "invalid value \"http://1.2.3.4\" for flag -listen-client-urls: URL address does not have "
         "the form \"host:port\": http://1.2.3.4"},
        {{"--listen-client-urls=ftp://a:1"},
         2,
         "invalid value \"ftp://a:1\" for flag -listen-client-urls: URL scheme must be http, https, "
         "unix, or unixs: ftp://a:1"},
        {{"--listen-client-urls=localhost:2379"},
         2,
         "invalid value \"localhost:2379\" for flag -listen-client-urls: URL scheme must be http, "
         "https, unix, or unixs: localhost:2379"},
        {{"--listen-client-urls=http://a:1/"},
         2,
         "invalid value \"http://a:1/\" for flag -listen-client-urls: URL must not contain a path: "
         "http://a:1/"},
        {{"--listen-client-urls=1.2.3.4:5"},
         2,
         "invalid value \"1.2.3.4:5\" for flag -listen-client-urls: parse \"1.2.3.4:5\": first path "
         "segment in URL cannot contain colon"},
        {{"--listen-client-urls=http://[::1"},
         2,
         "invalid value \"http://[::1\" for flag -listen-client-urls: parse \"http://[::1\": "
         "missing ']' in host"},
        {{"--listen-client-urls=http://::1:2379"},
         2,
         "invalid value \"http://::1:2379\" for flag -listen-client-urls: URL address does not have "
         "the form \"host:port\": http://::1:2379"},
        {{"--listen-client-urls=http://a:b"},
         2,
         "invalid value \"http://a:b\" for flag -listen-client-urls: parse \"http://a:b\": invalid "
         "port \":b\" after host"},
        {{"--listen-client-urls=http://a:99999"},
         2,
         "invalid value \"http://a:99999\" for flag -listen-client-urls: URL address does not have "
         "the form \"host:port\": http://a:99999"},
        {{"--cors=foo"},
         2,
         "invalid value \"foo\" for flag -cors: URL scheme must be http, https, unix, or unixs: foo"},
        {{"--feature-gates=Nope=true"},
         2,
         "invalid value \"Nope=true\" for flag -feature-gates: unrecognized feature gate: Nope"},
        {{"--name=a\nb"}, 2, "invalid value \"a\nb\" for flag -name: value must be one line"},
        {{"--discovery-password=secret\n"},
         2,
         "invalid value \"***\" for flag -discovery-password: value must be one line"},
        {{"foo"}, 1, "\"foo\" is not a valid flag"},
        {{"--force-new-cluster", "true"}, 1, "\"true\" is not a valid flag"},
        {{"--name=a", "--", "--name=b"}, 1, "\"--name=b\" is not a valid flag"},
        {{"-"}, 1, "\"-\" is not a valid flag"},
        {{"gateway", "start"}, 1, "\"gateway\" is not available in this version"},
        {{"--config-file=/nonexistent/x"}, 1, "open /nonexistent/x: no such file or directory"},
        {{"--config-file=/"}, 1, "read /: is a directory"},
        {{"--warning-apply-duration=1s", "--experimental-warning-apply-duration=1s"},
         1,
         "both --experimental-warning-apply-duration and --warning-apply-duration flags are set. "
         "Use only --warning-apply-duration"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;

        cr_assert_eq(load(&s, rows[i].args, no_env, &action, &e), -EINVAL, "row %zu", i);
        cr_assert_str_eq(e.text, rows[i].text);
        cr_assert_eq(e.exit_status, rows[i].status, "row %zu", i);
        cr_assert_eq(e.usage, rows[i].status == 2, "row %zu", i);
        settings_error_fini(&e);
        settings_fini(&s);
    }
}

Test(settings, rules_over_several)
{
    static const struct {
        const char *args[WORDS_MAX];
        const char *text;
    } rows[] = {
        {{"--logger=x"}, "unknown logger option \"x\""},
        {{"--log-level=loud"}, "unrecognized level: \"loud\""},
        {{"--log-level=info,etcd=debug"},
         "no daemon is called \"etcd\" (raftd, stored, gatewayd, supervisor)"},
        {{"--listen-client-urls=http://foo.example.com:1", "--advertise-client-urls=http://a:1"},
         "expected IP in URL for binding (http://foo.example.com:1)"},
        {{"--listen-peer-urls=http://:2380"}, "expected IP in URL for binding (http://:2380)"},
        {{"--listen-metrics-urls=http://h:1"}, "expected IP in URL for binding (http://h:1)"},
        {{"--initial-advertise-peer-urls=http://:2380"},
         "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty "
         "host (http://:2380))"},
        {{"--advertise-client-urls=http://:2379"},
         "--advertise-client-urls \"http://:2379\" must be \"host:port\" (unexpected empty host "
         "(http://:2379))"},
        {{"--discovery=http://d:1/x", "--initial-cluster=default=http://localhost:2380"},
         "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", "
         "\"discovery\", \"discovery-endpoints\" or \"discovery-srv\""},
        {{"--discovery=http://d:1/x", "--discovery-srv=e.org"},
         "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", "
         "\"discovery\", \"discovery-endpoints\" or \"discovery-srv\""},
        {{"--discovery-token=x"}, "both --discovery-token and --discovery-endpoints must be set"},
        {{"--heartbeat-interval=0"}, "--heartbeat-interval must be >0 (set to 0ms)"},
        {{"--election-timeout=0"}, "--election-timeout must be >0 (set to 0ms)"},
        {{"--election-timeout=400"},
         "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]"},
        {{"--election-timeout=60000"},
         "--election-timeout[60000ms] is too long, and should be set less than 50000ms"},
        {{"--heartbeat-interval=18446744073709551615"},
         "--election-timeout[1000ms] should be at least as 5 times as "
         "--heartbeat-interval[18446744073709551615ms]"},
        {{"--listen-client-urls=http://127.0.0.1:1"},
         "--advertise-client-urls is required when --listen-client-urls is set explicitly\n"
         "When listening on specific address(es), this process must advertise accessible url(s) to "
         "each connected client."},
        {{"--auto-compaction-mode=foo"}, "unknown auto-compaction-mode \"foo\""},
        {{"--auto-compaction-retention=x"},
         "error parsing CompactionRetention: \"x\" is neither a number nor a duration"},
        {{"--cert-file=x"}, "KeyFile and CertFile must both be present[key: , cert: x]"},
        {{"--peer-key-file=x"}, "KeyFile and CertFile must both be present[key: x, cert: ]"},
        {{"--peer-client-cert-file=x"}, "KeyFile and CertFile must both be present[key: , cert: x]"},
        {{"--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://a:1"},
         "TLS key/cert (--cert-file, --key-file) must be provided for client url "
         "https://127.0.0.1:1 with HTTPS scheme"},
        {{"--listen-metrics-urls=https://127.0.0.1:1", "--peer-auto-tls"},
         "TLS key/cert (--cert-file, --key-file) must be provided for client url "
         "https://127.0.0.1:1 with HTTPS scheme"},
        {{"--cipher-suites=FOO"}, "unexpected TLS cipher suite \"FOO\""},
        {{"--tls-min-version=TLS1.1"},
         "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"},
        {{"--tls-max-version=ssl"},
         "unexpected TLS version \"ssl\" (must be one of: TLS1.2, TLS1.3)"},
        {{"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"},
         "min version (TLS1.3) is greater than max version (TLS1.2)"},
        {{"--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"},
         "cipher suites cannot be configured when only TLS1.3 is enabled"},
        {{"--peer-cert-allowed-cn=a", "--peer-cert-allowed-hostname=b"},
         "AllowedCN and AllowedHostname are mutually exclusive (cn=\"a\", hostname=\"b\")"},
        {{"--listen-peer-urls=https://127.0.0.1:1"},
         "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url "
         "https://127.0.0.1:1 with HTTPS scheme"},
        {{"--listen-peer-urls=unix:///x", "--initial-advertise-peer-urls=http://a:1"},
         "unix:///x: scheme unix is not available in this version"},
        {{"--addr=x"}, "--addr is not available in this version"},
        {{"--discovery=http://d:1/x"}, "--discovery is not available in this version"},
        {{"--proxy=on"}, "--proxy is not available in this version"},
        {{"--gateway-count=0"}, "gateway-count must be 1 to 16 (set to 0)"},
        {{"--gateway-count=17"}, "gateway-count must be 1 to 16 (set to 17)"},
        {{"--max-request-bytes=67108864"},
         "max-request-bytes must be at most 33554432 (set to 67108864)"},
        {{"--name=a,b"},
         "name \"a,b\" must not contain ',' or '=', which initial-cluster uses to separate"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;

        cr_assert_eq(load(&s, rows[i].args, no_env, &action, &e), -EINVAL, "row %zu", i);
        cr_assert_str_eq(e.text, rows[i].text);
        cr_assert_eq(e.exit_status, 1);
        cr_assert(!e.usage);
        settings_error_fini(&e);
        settings_fini(&s);
    }
}

Test(settings, variables)
{
    static const struct {
        const char *args[WORDS_MAX];
        const char *env[4];
        const char *error;
        const char *name, *value;
        const char *notice;
    } rows[] = {
        {.env = {"ETCD_NAME=zz"},
         .name = "name",
         .value = "zz",
         .notice = "I recognized and used environment variable ETCD_NAME=zz\n"},
        {.env = {"CONCLAVE_NAME=zz"},
         .name = "name",
         .value = "zz",
         .notice = "I recognized and used environment variable CONCLAVE_NAME=zz\n"},
        {.env = {"ETCD_NAME="}, .name = "name", .value = "default"},
        {.env = {"ETCD_INITIAL_CLUSTER_STATE=existing"},
         .name = "initial-cluster-state",
         .value = "existing"},
        {.env = {"ETCD_FOO=1"}, .notice = "W unrecognized environment variable ETCD_FOO=1\n"},
        {.env = {"ETCD_PORT=tcp://1.2.3.4:5"},
         .notice = "W unrecognized environment variable ETCD_PORT=tcp://1.2.3.4:5\n"},
        {.env = {"CONCLAVE_FOO=1"},
         .notice = "W unrecognized environment variable CONCLAVE_FOO=1\n"},
        {.env = {"ETCD_VERSION=v3.5"}, .notice = "W ignored environment variable ETCD_VERSION=v3.5\n"},
        {.env = {"CONCLAVE_LIBEXECDIR=/x", "ETCD_UNSUPPORTED_ARCH=arm64", "ETCDCTL_API=3"},
         .notice = ""},
        {.env = {"ETCD_NAME=a", "CONCLAVE_NAME=a"}, .name = "name", .value = "a"},
        {.env = {"ETCD_NAME=a", "CONCLAVE_NAME=b"},
         .error = "conflicting environment variables \"ETCD_NAME\" and \"CONCLAVE_NAME\" have "
                  "different values"},
        {.args = {"--name=zz"},
         .env = {"ETCD_NAME=zz"},
         .error = "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding "
                  "command-line flag (either unset environment variable or disable flag)"},
        {.args = {"--name=zz"},
         .env = {"ETCD_NAME="},
         .error = "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding "
                  "command-line flag (either unset environment variable or disable flag)"},
        {.args = {"--name=zz"},
         .env = {"CONCLAVE_NAME=zz"},
         .error = "conflicting environment variable \"CONCLAVE_NAME\" is shadowed by corresponding "
                  "command-line flag (either unset environment variable or disable flag)"},
        {.env = {"ETCD_SNAPSHOT_COUNT=x"},
         .error = "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error"},
        {.env = {"ETCD_PRE_VOTE=x"}, .error = "invalid value \"x\" for ETCD_PRE_VOTE: parse error"},
        {.env = {"ETCD_CONFIG_FILE=/nonexistent/y"},
         .error = "open /nonexistent/y: no such file or directory"},
        {.env = {"ETCD_LISTEN_CLIENT_URLS=http://127.0.0.1:1"},
         .error =
             "--advertise-client-urls is required when --listen-client-urls is set explicitly\n"
             "When listening on specific address(es), this process must advertise accessible url(s) "
             "to each connected client."},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;
        char *env[5] = {NULL};
        CLEANUP(freep) char *notices = NULL;
        int r;

        for (size_t k = 0; k < 4; k++)
            env[k] = (char *)(uintptr_t)rows[i].env[k];
        r = load(&s, rows[i].args, env, &action, &e);
        notices = notices_of(&s);
        if (rows[i].error != NULL) {
            cr_assert_eq(r, -EINVAL, "row %zu", i);
            cr_assert_str_eq(e.text, rows[i].error);
            cr_assert_eq(e.exit_status, 1);
        } else {
            cr_assert_eq(r, 0, "row %zu: %s", i, e.text);
        }
        if (rows[i].name != NULL)
            cr_assert_str_eq(settings_text(&s, rows[i].name), rows[i].value, "row %zu", i);
        if (rows[i].notice != NULL)
            cr_assert_str_eq(notices, rows[i].notice);
        settings_error_fini(&e);
        settings_fini(&s);
    }
}

Test(settings, help_and_version_come_before_the_rest)
{
    static const struct {
        const char *args[WORDS_MAX];
        enum settings_action action;
    } rows[] = {
        {{"--help", "--bogus"}, SETTINGS_HELP},
        {{"-h"}, SETTINGS_HELP},
        {{"--config-file=/nonexistent", "--help"}, SETTINGS_HELP},
        {{"--version"}, SETTINGS_VERSION},
        {{"--version", "--config-file=/nonexistent"}, SETTINGS_VERSION},
        {{"--version=false"}, SETTINGS_START},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;

        cr_assert_eq(load(&s, rows[i].args, no_env, &action, &e), 0, "row %zu: %s", i, e.text);
        cr_assert_eq(action, rows[i].action, "row %zu", i);
        settings_fini(&s);
    }
}

Test(settings, what_does_not_count_is_told_once)
{
    struct settings s;
    struct settings_error e;
    enum settings_action action;
    CLEANUP(freep) char *notices = NULL;

    cr_assert_eq(load(&s,
                      (const char *[]){"--max-wals=7", "--enable-pprof", "--v2-deprecation=gone",
                                       "--enable-v2=false", "--max-snapshots=5",
                                       "--proxy=off", "--client-cert-auth=false", NULL},
                      no_env, &action, &e),
                 0, "%s", e.text);
    notices = notices_of(&s);
    cr_assert_str_eq(notices,
                     "I accepted, without effect here: max-wals, v2-deprecation, enable-pprof\n"
                     "W accepted, but not acted on by this version: enable-v2\n");
    settings_fini(&s);
}

Test(settings, a_daemon_gets_its_part)
{
    struct settings s;
    struct settings_error e;
    enum settings_action action;
    struct buf raftd = BUF_INIT, gatewayd = BUF_INIT;

    cr_assert_eq(load(&s, (const char *[]){"--name=a", "--discovery-password=x", NULL}, no_env,
                      &action, &e),
                 0);
    settings_write(&s, FOR_RAFTD, &raftd);
    settings_write(&s, FOR_GATEWAYD, &gatewayd);
    buf_append_u8(&raftd, '\0');
    buf_append_u8(&gatewayd, '\0');
    cr_assert_not_null(strstr((char *)raftd.data, "name=a\n"));
    cr_assert_not_null(strstr((char *)raftd.data, "initial-cluster=a=http://localhost:2380\n"));
    cr_assert_null(strstr((char *)gatewayd.data, "initial-cluster="));
    cr_assert_not_null(strstr((char *)gatewayd.data, "grpc-keepalive-min-time=5s\n"));
    cr_assert_null(strstr((char *)raftd.data, "password"));
    buf_fini(&raftd);
    buf_fini(&gatewayd);
    settings_fini(&s);
}

Test(settings, log_levels_per_process)
{
    static const struct {
        const char *args[WORDS_MAX];
        const char *process, *level, *format;
    } rows[] = {
        {{NULL}, "raftd", "info", "text"},
        {{"--debug"}, "raftd", "debug", "text"},
        {{"--log-level=warn,raftd=debug", "--logger=zap"}, "raftd", "debug", "json"},
        {{"--log-level=warn,raftd=debug", "--logger=capnslog"}, "stored", "warn", "text"},
        {{"--log-level=raftd=error", "--log-format=console"}, "stored", "info", "text"},
        {{"--log-level=error", "--log-format=json"}, "supervisor", "error", "json"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;
        char *level;

        cr_assert_eq(load(&s, rows[i].args, no_env, &action, &e), 0, "row %zu: %s", i, e.text);
        level = settings_log_level(&s, rows[i].process);
        cr_assert_str_eq(level, rows[i].level, "row %zu", i);
        cr_assert_str_eq(settings_log_format(&s), rows[i].format, "row %zu", i);
        free(level);
        settings_fini(&s);
    }
}

Test(settings, birth)
{
    static const struct {
        const char *args[WORDS_MAX];
        const char *error; /* NULL: fine; a prefix otherwise */
    } rows[] = {
        {{NULL}, NULL},
        {{"--name=a"}, NULL},
        {{"--name=a", "--initial-cluster=a=http://localhost:2380,b=http://h:1"}, NULL},
        {{"--name=a", "--initial-cluster=a=http://127.0.0.1:2380"}, NULL}, /* same place */
        {{"--name=a", "--initial-cluster=b=http://h:1"},
         "couldn't find local name \"a\" in the initial cluster configuration"},
        {{"--initial-cluster="}, "initial cluster unset and no discovery endpoints found"},
        {{"--name=a", "--initial-cluster=a=http://localhost:2380,b=http://localhost:2380"},
         "initial cluster a=http://localhost:2380,b=http://localhost:2380 has duplicate url"},
        {{"--name=a", "--initial-cluster=a=http://127.0.0.2:2380"},
         "--initial-cluster has a=http://127.0.0.2:2380 but missing from "
         "--initial-advertise-peer-urls=http://localhost:2380 ("},
        {{"--name=a", "--initial-cluster=a=http://localhost:2380",
          "--initial-advertise-peer-urls=http://localhost:2380,http://127.0.0.3:1"},
         "--initial-advertise-peer-urls has http://127.0.0.3:1 but missing from "
         "--initial-cluster=a=http://localhost:2380"},
        {{"--name=a", "--initial-cluster=a"}, "error setting up initial cluster: URL scheme must be"},
        {{"--name=a", "--initial-cluster-state=existing",
          "--initial-cluster=a=http://127.0.0.2:2380"},
         NULL}, /* a joining member's URLs are checked against the cluster */
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        enum settings_action action;

        cr_assert_eq(load(&s, rows[i].args, no_env, &action, &e), 0, "row %zu: %s", i, e.text);
        if (rows[i].error == NULL) {
            cr_assert_eq(settings_check_birth(&s, &e), 0, "row %zu: %s", i, e.text);
        } else {
            cr_assert_eq(settings_check_birth(&s, &e), -EINVAL, "row %zu", i);
            cr_assert_eq(strncmp(e.text, rows[i].error, strlen(rows[i].error)), 0, "row %zu: %s", i,
                         e.text);
        }
        settings_error_fini(&e);
        settings_fini(&s);
    }
}

Test(settings, reload_takes_only_what_it_may)
{
    struct settings old, newer;
    struct settings_error e;
    enum settings_action action;
    CLEANUP(freep) char *ignored = NULL;

    cr_assert_eq(load(&old, (const char *[]){NULL}, no_env, &action, &e), 0);
    cr_assert_eq(load(&newer, (const char *[]){"--log-level=debug", "--heartbeat-interval=50", NULL},
                      no_env, &action, &e),
                 0);
    settings_reload(&old, &newer, &ignored);
    cr_assert_str_eq(settings_text(&old, "log-level"), "debug");
    cr_assert_str_eq(settings_text(&old, "heartbeat-interval"), "100");
    cr_assert_str_eq(ignored, "heartbeat-interval");
    settings_fini(&old);
    settings_fini(&newer);
}

/* docs/configuration.md carries the tables that supervisor/settings_reference prints. */
Test(settings, the_reference_page_is_up_to_date)
{
    CLEANUP(freep) char *tables = NULL;
    CLEANUP(freep) char *page = NULL;
    size_t tables_len = 0, page_len = 0;
    FILE *out = open_memstream(&tables, &tables_len);
    FILE *in = fopen(SRCDIR "/docs/configuration.md", "r");

    cr_assert(out != NULL && in != NULL);
    settings_print_reference(out);
    fclose(out);
    cr_assert(getdelim(&page, &page_len, '\0', in) > 0);
    fclose(in);
    cr_assert_not_null(strstr(page, tables), "print the tables again with settings_reference");
}
