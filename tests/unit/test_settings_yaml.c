/*
 * The configuration file: what it may say, where a mistake is found, and who wins over it.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "supervisor/settings.h"

static int read_text(struct setting_layer *layer, const char *text, struct settings_error *e)
{
    setting_layer_init(layer);
    *e = (struct settings_error){0};
    return settings_read_yaml(layer, "f.yml", text, strlen(text), e);
}

Test(settings_yaml, values)
{
    static const struct {
        const char *text;
        const char *name, *value; /* NULL: stays at its default */
    } rows[] = {
        {"", "name", NULL},
        {"# only a remark\n", "name", NULL},
        {"---\n", "name", NULL},
        {"name: m1\n", "name", "m1"},
        {"NAME: m1\n", "name", "m1"},
        {"Data-Dir: /x\n", "data-dir", "/x"},
        {"name: 'a b'\n", "name", "a b"},
        {"name: 12\n", "name", "12"},
        {"data-dir:\n", "data-dir", NULL},
        {"data-dir: ~\n", "data-dir", NULL},
        {"data-dir: null\n", "data-dir", NULL},
        {"data-dir: ''\n", "data-dir", ""},
        {"snapshot-count: 5\n", "snapshot-count", "5"},
        {"quota-backend-bytes: -1\n", "quota-backend-bytes", "-1"},
        {"pre-vote: false\n", "pre-vote", "false"},
        {"pre-vote: no\n", "pre-vote", "false"},
        {"proxy: off\n", "proxy", "off"},
        {"proxy: 'off'\n", "proxy", "off"},
        {"grpc-keepalive-min-time: 5000000000\n", "grpc-keepalive-min-time", "5000000000ns"},
        {"grpc-keepalive-min-time: 5s\n", "grpc-keepalive-min-time", "5000000000ns"},
        {"grpc-keepalive-min-time: \"1m\"\n", "grpc-keepalive-min-time", "60000000000ns"},
        {"grpc-keepalive-min-time: 0\n", "grpc-keepalive-min-time", "0ns"},
        {"auto-compaction-retention: \"1\"\n", "auto-compaction-retention", "1"},
        {"auto-compaction-retention: 1\n", "auto-compaction-retention", "1"},
        {"listen-client-urls: http://127.0.0.1:2,http://127.0.0.1:1\n",
         "listen-client-urls",
         "http://127.0.0.1:1,http://127.0.0.1:2"},
        {"listen-client-urls: [http://127.0.0.1:2, http://127.0.0.1:1]\n",
         "listen-client-urls",
         "http://127.0.0.1:1,http://127.0.0.1:2"},
        {"log-outputs: [stderr, /var/log/x]\n", "log-outputs", "stderr,/var/log/x"},
        {"log-outputs: stderr\n", "log-outputs", "stderr"},
        {"client-transport-security:\n  cert-file: a\n", "cert-file", "a"},
        {"client-transport-security:\n", "cert-file", NULL},
        {"client-transport-security:\n  cert-file: \n", "cert-file", NULL},
        {"Peer-Transport-Security: {Auto-TLS: false}\n", "peer-auto-tls", "false"},
        {"socket-options: {reuse-port: true}\n", "socket-reuse-port", "true"},
        {"discovery-config: {token: t, client: {secure: {cacert: c}, auth: {token: x}}}\n",
         "discovery-cacert",
         "c"},
        {"cert-file: a\n", "cert-file", "a"},
        {"name: &n m1\ndata-dir: *n\n", "data-dir", "m1"},
        {"{name: m1, \"data-dir\": /x}", "data-dir", "/x"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct setting_layer layer;
        struct settings_error e;
        const char *value;

        cr_assert_eq(read_text(&layer, rows[i].text, &e), 0, "%s: %s", rows[i].text, e.text);
        value = layer.values[settings_find(rows[i].name)].text;
        if (rows[i].value == NULL)
            cr_assert_null(value, "%s", rows[i].text);
        else
            cr_assert(value != NULL && strcmp(value, rows[i].value) == 0, "%s: %s", rows[i].text,
                      value);
        setting_layer_fini(&layer);
    }
}

Test(settings_yaml, mistakes_have_a_place)
{
    static const struct {
        const char *text;
        const char *error;
    } rows[] = {
        {"nmae: m1\n", "f.yml:1:1: unknown key \"nmae\""},
        {"name: a\n\nfoo: b\n", "f.yml:3:1: unknown key \"foo\""},
        {"client-transport-security:\n  cert: a\n",
         "f.yml:2:3: unknown key \"client-transport-security.cert\""},
        {"config-file: x\n", "f.yml:1:1: unknown key \"config-file\""},
        {"version: true\n", "f.yml:1:1: unknown key \"version\""},
        {"client-transport-security.cert-file: x\n",
         "f.yml:1:1: unknown key \"client-transport-security.cert-file\""},
        {"name: a\nname: b\n", "f.yml:2:1: name: given twice, first in line 1"},
        {"name: a\nNAME: b\n", "f.yml:2:1: NAME: given twice, first in line 1"},
        {"cert-file: a\nclient-transport-security:\n  cert-file: b\n",
         "f.yml:3:3: client-transport-security.cert-file: given twice, first in line 1"},
        {"client-transport-security:\nclient-transport-security:\n",
         "f.yml:2:1: client-transport-security: given twice, first in line 1"},
        {"snapshot-count: \"5\"\n",
         "f.yml:1:17: snapshot-count: expected a number of 0 or more, without quotes, found the text "
         "\"5\""},
        {"snapshot-count: -5\n",
         "f.yml:1:17: snapshot-count: expected a number of 0 or more, without quotes, found the text "
         "\"-5\""},
        {"snapshot-count: many\n",
         "f.yml:1:17: snapshot-count: expected a number of 0 or more, without quotes, found the text "
         "\"many\""},
        {"snapshot-count: [1]\n",
         "f.yml:1:17: snapshot-count: expected a number of 0 or more, without quotes, found a list"},
        {"max-concurrent-streams: 4294967296\n",
         "f.yml:1:25: max-concurrent-streams: invalid value \"4294967296\": value out of range"},
        {"pre-vote: \"true\"\n",
         "f.yml:1:11: pre-vote: expected true or false, found the text \"true\""},
        {"pre-vote: 1\n", "f.yml:1:11: pre-vote: expected true or false, found the number \"1\""},
        {"name: [a]\n", "f.yml:1:7: name: expected a text, found a list"},
        {"name:\n  x: y\n", "f.yml:2:3: name: expected a text, found a block"},
        {"log-outputs: [[a]]\n", "f.yml:1:15: log-outputs: expected a text in the list, found a list"},
        {"client-transport-security: x\n",
         "f.yml:1:28: client-transport-security: expected a block of settings, found the text "
         "\"x\""},
        {"grpc-keepalive-min-time: soon\n",
         "f.yml:1:26: grpc-keepalive-min-time: expected a duration (nanoseconds, or text such as "
         "500ms or 1h30m), found the text \"soon\""},
        {"grpc-keepalive-min-time: -5\n",
         "f.yml:1:26: grpc-keepalive-min-time: expected a duration (nanoseconds, or text such as "
         "500ms or 1h30m), found the text \"-5\""},
        {"grpc-keepalive-min-time: 18446744073709551615\n",
         "f.yml:1:26: grpc-keepalive-min-time: expected a duration (nanoseconds, or text such as "
         "500ms or 1h30m), found the number \"18446744073709551615\""},
        {"initial-cluster-state: foo\n",
         "f.yml:1:24: initial-cluster-state: unexpected clusterState \"foo\""},
        {"listen-client-urls: http://a\n",
         "f.yml:1:21: listen-client-urls: invalid value \"http://a\": URL address does not have the "
         "form \"host:port\": http://a"},
        {"just text\n", "f.yml:1:1: expected lines \"key: value\", found the text"},
        {"- a\n- b\n", "f.yml:1:1: expected lines \"key: value\", found a list"},
        {"[a]: b\n", "f.yml:1:1: expected the name of a setting, found a list"},
        {"name: a\n---\nname: b\n", "f.yml:2:1: more than one document"},
        {"name: |\n  a\n  b\n", "f.yml:1:7: name: invalid value \"a\nb\n\": value must be one line"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct setting_layer layer;
        struct settings_error e;

        cr_assert_eq(read_text(&layer, rows[i].text, &e), -EINVAL, "%s", rows[i].text);
        cr_assert_str_eq(e.text, rows[i].error);
        cr_assert_eq(e.exit_status, 1);
        cr_assert(e.located);
        settings_error_fini(&e);
        setting_layer_fini(&layer);
    }
}

Test(settings_yaml, what_is_not_yaml_has_a_place)
{
    static const char *const rows[] = {
        "name: [a\n", "name: \"a\n", "\tname: a\n", "a: b: c\n", "name: *nobody\n", "name: \xff\xfe\n",
        "%YAML 9.9\n---\nname: a\n", "name: {a\n", "&\n", "? \n- :\n  -", "\x01",
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct setting_layer layer;
        struct settings_error e;

        cr_assert_eq(read_text(&layer, rows[i], &e), -EINVAL, "row %zu", i);
        cr_assert_eq(strncmp(e.text, "f.yml:", 6), 0, "%s", e.text);
        cr_assert(e.text[6] >= '1' && e.text[6] <= '9', "%s", e.text);
        settings_error_fini(&e);
        setting_layer_fini(&layer);
    }
}

/* Any damage to a good file gives settings or an error, never anything else. */
Test(settings_yaml, random_damage)
{
    static const char good[] = "name: m1\ndata-dir: /x\nclient-transport-security:\n  cert-file: a\n"
                               "log-outputs: [stderr, x]\ngrpc-keepalive-timeout: 5s\n";
    struct prng p;

    prng_init(&p, 11);
    for (int round = 0; round < 20000; round++) {
        char text[sizeof(good)];
        size_t len = sizeof(good) - 1;
        struct setting_layer layer;
        struct settings_error e = {0};
        int r;

        memcpy(text, good, sizeof(good));
        for (uint64_t n = prng_below(&p, 4) + 1; n > 0; n--)
            text[prng_below(&p, len)] = "\n\t {}[]:-&*!|>'\"%@`#,?~x0\xc3\x00"[prng_below(&p, 28)];
        setting_layer_init(&layer);
        r = settings_read_yaml(&layer, "f.yml", text, prng_below(&p, len + 1), &e);
        cr_assert(r == 0 || (r == -EINVAL && e.text != NULL));
        settings_error_fini(&e);
        setting_layer_fini(&layer);
    }
}

/* ---- with a file on disk: precedence ---- */

static int load_file(struct settings *s, const char *text, const char *flag, const char *variable,
                     struct settings_error *e, char **ret_notices)
{
    char path[] = "/tmp/test_settings_yaml.XXXXXX";
    CLEANUP(closep) int fd = mkstemp(path);
    CLEANUP(freep) char *config = xasprintf("--config-file=%s", path);
    char *argv[] = {(char *)(uintptr_t) "conclave", config, (char *)(uintptr_t)flag, NULL};
    char *env[] = {(char *)(uintptr_t)variable, NULL};
    enum settings_action action;
    struct buf notices = BUF_INIT;
    int r;

    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    *e = (struct settings_error){0};
    r = settings_load(s, flag != NULL ? 3 : 2, argv, env, &action, e);
    unlink(path);
    for (size_t i = 1; i < s->notice_count; i++) { /* the first says that the file is loaded */
        char *at = strstr(s->notices[i].text, path);

        if (at != NULL) /* the name differs from run to run */
            buf_appendf(&notices, "%.*sFILE%s\n", (int)(at - s->notices[i].text),
                        s->notices[i].text, at + strlen(path));
        else
            buf_appendf(&notices, "%s\n", s->notices[i].text);
    }
    buf_append_u8(&notices, '\0');
    *ret_notices = (char *)notices.data;
    return r;
}

Test(settings_yaml, precedence)
{
    static const struct {
        const char *text, *flag, *variable;
        const char *value; /* of name */
        const char *notices;
    } rows[] = {
        {"name: f\n", NULL, NULL, "f", ""},
        {"name: f\n", "--name=g", NULL, "g", "--name=g overrides name in FILE:1\n"},
        {"name: f\n", "--name=f", NULL, "f", ""},
        {"name:\n", "--name=g", NULL, "g", ""},
        {"name: f\n", NULL, "ETCD_NAME=e", "f",
         "ignored beside a configuration file, as in etcd: ETCD_NAME\n"},
        {"data-dir: /x\n", NULL, "ETCD_NAME=e", "default",
         "ignored beside a configuration file, as in etcd: ETCD_NAME\n"},
        {"name: f\n", "--name=g", "ETCD_NAME=e", "g",
         "ignored beside a configuration file, as in etcd: ETCD_NAME\n"
         "--name=g overrides name in FILE:1\n"},
        {"name: f\n", NULL, "CONCLAVE_NAME=c", "c",
         "CONCLAVE_NAME=c overrides name in FILE:1\n"
         "recognized and used environment variable CONCLAVE_NAME=c\n"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        CLEANUP(freep) char *notices = NULL;

        cr_assert_eq(load_file(&s, rows[i].text, rows[i].flag, rows[i].variable, &e, &notices), 0,
                     "row %zu: %s", i, e.text);
        cr_assert_str_eq(settings_text(&s, "name"), rows[i].value, "row %zu", i);
        cr_assert_str_eq(notices, rows[i].notices, "row %zu", i);
        settings_fini(&s);
    }
}

Test(settings_yaml, rules_name_the_line)
{
    static const struct {
        const char *text, *error; /* after the path */
    } rows[] = {
        {"name: a\nelection-timeout: 400\n",
         ":2:1: election-timeout: --election-timeout[400ms] should be at least as 5 times as "
         "--heartbeat-interval[100ms]"},
        {"log-level: loud\n", ":1:1: log-level: unrecognized level: \"loud\""},
        {"\n\nlisten-client-urls: http://h:1\n",
         ":3:1: listen-client-urls: expected IP in URL for binding (http://h:1)"},
        {"auto-compaction-mode: ''\n",
         ":1:1: auto-compaction-mode: undefined auto-compaction-mode"},
        {"client-transport-security:\n  cert-file: x\n",
         ":2:3: cert-file: KeyFile and CertFile must both be present[key: , cert: x]"},
        {"discovery: x\n", ":1:1: discovery: not available in this version"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct settings s;
        struct settings_error e;
        CLEANUP(freep) char *notices = NULL;

        cr_assert_eq(load_file(&s, rows[i].text, NULL, NULL, &e, &notices), -EINVAL, "row %zu", i);
        cr_assert(e.located);
        cr_assert_not_null(strstr(e.text, rows[i].error), "row %zu: %s", i, e.text);
        settings_error_fini(&e);
        settings_fini(&s);
    }
}

/* The keys of the sample etcd ships, with values as in there. */
static const char sample_of_etcd[] =
    "# remarks\n"
    "name: 'default'\n"
    "data-dir:\n"
    "wal-dir:\n"
    "snapshot-count: 10000\n"
    "heartbeat-interval: 100\n"
    "election-timeout: 1000\n"
    "quota-backend-bytes: 0\n"
    "listen-peer-urls: http://localhost:2380\n"
    "listen-client-urls: http://localhost:2379\n"
    "max-snapshots: 5\n"
    "max-wals: 5\n"
    "cors:\n"
    "initial-advertise-peer-urls: http://localhost:2380\n"
    "advertise-client-urls: http://localhost:2379\n"
    "discovery:\n"
    "discovery-fallback: 'proxy'\n"
    "discovery-proxy:\n"
    "discovery-srv:\n"
    "initial-cluster:\n"
    "initial-cluster-token: 'etcd-cluster'\n"
    "initial-cluster-state: 'new'\n"
    "strict-reconfig-check: false\n"
    "enable-v2: true\n"
    "enable-pprof: true\n"
    "proxy: 'off'\n"
    "proxy-failure-wait: 5000\n"
    "proxy-refresh-interval: 30000\n"
    "proxy-dial-timeout: 1000\n"
    "proxy-write-timeout: 5000\n"
    "proxy-read-timeout: 0\n"
    "client-transport-security:\n"
    "  cert-file:\n"
    "  key-file:\n"
    "  client-cert-auth: false\n"
    "  trusted-ca-file:\n"
    "  auto-tls: false\n"
    "peer-transport-security:\n"
    "  cert-file:\n"
    "  key-file:\n"
    "  client-cert-auth: false\n"
    "  trusted-ca-file:\n"
    "  auto-tls: false\n"
    "self-signed-cert-validity: 1\n"
    "log-level: debug\n"
    "logger: zap\n"
    "log-outputs: [stderr]\n"
    "force-new-cluster: false\n"
    "auto-compaction-mode: periodic\n"
    "auto-compaction-retention: \"1\"\n"
    "cipher-suites: [\n"
    "]\n"
    "tls-min-version: 'TLS1.2'\n"
    "tls-max-version: 'TLS1.3'\n"
    "debug: false\n";

Test(settings_yaml, the_sample_of_etcd_loads)
{
    struct settings s;
    struct settings_error e;
    CLEANUP(freep) char *notices = NULL;

    cr_assert_eq(load_file(&s, sample_of_etcd, NULL, NULL, &e, &notices), 0, "%s", e.text);
    cr_assert_eq(settings_check_birth(&s, &e), 0, "%s", e.text);
    cr_assert_str_eq(settings_log_format(&s), "json");
    cr_assert(!settings_bool(&s, "strict-reconfig-check"));
    cr_assert_str_eq(settings_text(&s, "initial-cluster"), "default=http://localhost:2380");
    settings_fini(&s);
}

/* Our own samples in conf/. */
Test(settings_yaml, our_samples_load)
{
    static const char *const names[] = {"conclave.conf.yml", "cluster/node1.yml",
                                        "cluster/node2.yml", "cluster/node3.yml"};
    const char *srcdir = SRCDIR;

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP(freep) char *config = xasprintf("--config-file=%s/conf/%s", srcdir, names[i]);
        char *argv[] = {(char *)(uintptr_t) "conclave", config, NULL};
        char *env[] = {NULL};
        enum settings_action action;
        struct settings s;
        struct settings_error e = {0};

        cr_assert_eq(settings_load(&s, 2, argv, env, &action, &e), 0, "%s", e.text);
        cr_assert_eq(settings_check_birth(&s, &e), 0, "%s: %s", names[i], e.text);
        for (size_t k = 0; k < s.notice_count; k++)
            cr_assert(!s.notices[k].warning, "%s: %s", names[i], s.notices[k].text);
        settings_fini(&s);
    }
}
