/*
 * The global flags: their environment variables (ETCDCTL_<NAME>), and what they amount to. A value
 * from the environment counts as given; flag and variable together are an error, as in etcdctl.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ctl/ctl.h"
#include "ctl/ctl_discovery.h"
#include "ctl/ctl_secure.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/util/xmalloc.h"

#define STRING(n, u)                                                                               \
    {                                                                                              \
        .name = n, .type = CTL_FLAG_STRING, .initial = "", .usage = u                              \
    }
const struct ctl_flag ctl_global_flags[] = {
    STRING("auth-jwt-token", "JWT token for authentication, instead of --user"),
    STRING("cacert", "verify certificates of TLS-enabled secure servers using this CA bundle"),
    STRING("cert", "identify secure client using this TLS certificate file"),
    {.name = "command-timeout",
     .type = CTL_FLAG_DURATION,
     .initial = "5s",
     .usage = "timeout for short running command (excluding dial timeout)"},
    {.name = "debug",
     .type = CTL_FLAG_BOOL,
     .initial = "false",
     .usage = "enable client-side debug logging"},
    {.name = "dial-timeout",
     .type = CTL_FLAG_DURATION,
     .initial = "2s",
     .usage = "dial timeout for client connections"},
    {.name = "discovery-srv",
     .type = CTL_FLAG_STRING,
     .initial = "",
     .shorthand = 'd',
     .usage = "domain name to query for SRV records describing cluster endpoints"},
    STRING("discovery-srv-name", "service name to query when using DNS discovery"),
    {.name = "endpoints",
     .type = CTL_FLAG_LIST,
     .initial = "127.0.0.1:2379",
     .usage = "gRPC endpoints"},
    {.name = "hex",
     .type = CTL_FLAG_BOOL,
     .initial = "false",
     .usage = "print byte strings as hex encoded strings"},
    {.name = "insecure-discovery",
     .type = CTL_FLAG_BOOL,
     .initial = "true",
     .usage = "accept insecure SRV records describing cluster endpoints"},
    {.name = "insecure-skip-tls-verify",
     .type = CTL_FLAG_BOOL,
     .initial = "false",
     .usage = "skip server certificate verification (CAUTION: this option should be enabled only "
              "for testing purposes)"},
    {.name = "insecure-transport",
     .type = CTL_FLAG_BOOL,
     .initial = "true",
     .usage = "disable transport security for client connections"},
    {.name = "keepalive-time",
     .type = CTL_FLAG_DURATION,
     .initial = "2s",
     .usage = "keepalive time for client connections"},
    {.name = "keepalive-timeout",
     .type = CTL_FLAG_DURATION,
     .initial = "6s",
     .usage = "keepalive timeout for client connections"},
    STRING("key", "identify secure client using this TLS key file"),
    {.name = "max-recv-bytes", .type = CTL_FLAG_INT, .initial = "0", .hidden = true},
    {.name = "max-request-bytes", .type = CTL_FLAG_INT, .initial = "0", .hidden = true},
    STRING("password", "password for authentication (if this option is used, --user option "
                       "shouldn't include password)"),
    STRING("user", "username[:password] for authentication (prompt if password is not supplied)"),
    {.name = "write-out",
     .type = CTL_FLAG_STRING,
     .initial = "simple",
     .shorthand = 'w',
     .usage = "set the output format (fields, json, protobuf, simple, table)"},
    {.name = NULL}};

extern char **environ;

enum { KEEPALIVE_MS_MIN = 10000 };

static char *variable_name(const char *flag)
{
    char *name = xasprintf("ETCDCTL_%s", flag);

    for (char *p = name; *p != '\0'; p++)
        *p = *p == '-' ? '_' : (char)toupper((unsigned char)*p);
    return name;
}

static void read_environment(struct ctl_args *a)
{
    for (const struct ctl_flag *f = ctl_global_flags; f->name != NULL; f++) {
        CLEANUP(freep) char *name = variable_name(f->name);
        const char *value = getenv(name);
        char *why = NULL;

        if (value == NULL || *value == '\0')
            continue;
        if (ctl_args_given(a, f->name))
            ctl_die(CTL_EXIT_ERROR,
                    "conflicting environment variable \"%s\" is shadowed by corresponding "
                    "command-line flag (either unset environment variable or disable flag)",
                    name);
        if (ctl_args_set(a, f->name, value, &why) != 0)
            fprintf(
                stderr,
                "{\"level\":\"warn\",\"msg\":\"environment variable ignored\",\"name\":\"%s\"}\n",
                name); /* as etcdctl does */
        free(why);
    }
    for (char **e = environ; *e != NULL; e++) {
        size_t len = strcspn(*e, "=");
        bool known = strncmp(*e, "ETCDCTL_WATCH_", 14) == 0 || strncmp(*e, "ETCDCTL_API=", 12) == 0;

        if (strncmp(*e, "ETCDCTL_", 8) != 0)
            continue;
        for (const struct ctl_flag *f = ctl_global_flags; f->name != NULL && !known; f++) {
            CLEANUP(freep) char *name = variable_name(f->name);

            known = strlen(name) == len && strncmp(name, *e, len) == 0;
        }
        if (!known)
            fprintf(stderr,
                    "{\"level\":\"warn\",\"msg\":\"unrecognized environment variable\","
                    "\"environment-variable\":\"%.*s\"}\n",
                    (int)len, *e);
    }
}

static void print_debug(const struct ctl_args *a)
{
    for (const struct ctl_flag *f = ctl_global_flags; f->name != NULL; f++) {
        const struct ctl_flag_value *v = ctl_args_flag(a, f->name);
        CLEANUP(freep) char *name = variable_name(f->name);

        if (f->hidden)
            continue;
        if (f->type == CTL_FLAG_LIST)
            fprintf(stderr, "%s=[%s]\n", name, v->text);
        else if (f->type == CTL_FLAG_BOOL)
            fprintf(stderr, "%s=%s\n", name, v->b ? "true" : "false");
        else
            fprintf(stderr, "%s=%s\n", name, v->text);
    }
}

static void read_format(struct ctl *c)
{
    static const char *const names[] = {[CTL_FORMAT_SIMPLE] = "simple",
                                        [CTL_FORMAT_JSON] = "json",
                                        [CTL_FORMAT_FIELDS] = "fields",
                                        [CTL_FORMAT_TABLE] = "table",
                                        [CTL_FORMAT_PROTOBUF] = "protobuf"};
    const char *wanted = ctl_args_string(c->args, "write-out");

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(wanted, names[i]) == 0) {
            c->format = (enum ctl_format)i;
            return;
        }
    ctl_die(CTL_EXIT_BAD_FEATURE, "unsupported output format");
}

static void split_endpoints(struct ctl *c, const char *text)
{
    while (*text != '\0') {
        size_t len = strcspn(text, ",");

        c->endpoints = xreallocarray(c->endpoints, c->endpoint_count + 1, sizeof(char *));
        c->endpoints[c->endpoint_count++] = xstrndup(text, len);
        text += len + (text[len] == ',');
    }
}

static void read_endpoints(struct ctl *c)
{
    const char *domain = ctl_args_string(c->args, "discovery-srv");

    if (*domain != '\0') {
        CLEANUP(freep)
        char *found = ctl_discover_endpoints(domain, ctl_args_string(c->args, "discovery-srv-name"),
                                             ctl_args_bool(c->args, "insecure-discovery"));

        if (found != NULL) {
            split_endpoints(c, found);
            return;
        }
    }
    split_endpoints(c, ctl_args_string(c->args, "endpoints"));
    if (c->endpoint_count == 0)
        ctl_die(CTL_EXIT_ERROR, "etcdclient: no available endpoints");
}

static void read_user(struct ctl *c)
{
    const char *user = ctl_args_string(c->args, "user");
    const char *password = ctl_args_string(c->args, "password");
    const char *colon = strchr(user, ':');

    if (*user == '\0')
        return;
    if (*password != '\0') {
        c->user = xstrdup(user);
        c->password = xstrdup(password);
    } else if (colon != NULL) {
        c->user = xstrndup(user, (size_t)(colon - user));
        c->password = xstrdup(colon + 1);
    } else {
        c->user = xstrdup(user);
        c->password = ctl_read_password("Password: ");
        if (c->password == NULL)
            ctl_die(CTL_EXIT_ERROR, "no password on standard input");
    }
}

static void no_empty_string(const struct ctl *c, const char *flag)
{
    const struct ctl_flag_value *v = ctl_args_flag(c->args, flag);

    if (v->given && *v->text == '\0')
        ctl_die(CTL_EXIT_BAD_ARGS, "empty string is passed to --%s option", flag);
}

/* The client's own limits of messages; etcd's library has the same words for what contradicts. */
static void read_limits(struct ctl *c)
{
    int64_t request = ctl_args_int(c->args, "max-request-bytes");
    int64_t answer = ctl_args_int(c->args, "max-recv-bytes");

    c->request_bytes_max = (uint64_t)MAX(request, INT64_C(0));
    c->answer_bytes_max = (uint64_t)MAX(answer, INT64_C(0));
    if (c->answer_bytes_max > 0 && c->request_bytes_max > c->answer_bytes_max)
        ctl_die(CTL_EXIT_BAD_CONNECTION,
                "gRPC message recv limit (%" PRIu64
                " bytes) must be greater than send limit (%" PRIu64 " bytes)",
                c->answer_bytes_max, c->request_bytes_max);
}

void ctl_globals(struct ctl *c)
{
    if (c->globals_read)
        return;
    c->globals_read = true;
    read_environment(c->args);
    if (ctl_args_bool(c->args, "debug"))
        print_debug(c->args);
    read_format(c);
    c->hex = ctl_args_bool(c->args, "hex");
    read_endpoints(c);
    c->dial_ms = (uint64_t)MAX(ctl_args_int(c->args, "dial-timeout") / 1000000, (int64_t)1);
    c->command_ms = (uint64_t)MAX(ctl_args_int(c->args, "command-timeout") / 1000000, (int64_t)1);
    /* no oftener than gRPC clients do */
    c->keepalive_ms =
        (uint64_t)MAX(ctl_args_int(c->args, "keepalive-time") / 1000000, (int64_t)KEEPALIVE_MS_MIN);
    c->keepalive_timeout_ms =
        (uint64_t)MAX(ctl_args_int(c->args, "keepalive-timeout") / 1000000, (int64_t)1000);
    read_limits(c);
    no_empty_string(c, "cert");
    no_empty_string(c, "key");
    no_empty_string(c, "cacert");
    c->tls = ctl_secure_context(&(struct ctl_secure){
        .cert = ctl_args_string(c->args, "cert"),
        .key = ctl_args_string(c->args, "key"),
        .cacert = ctl_args_string(c->args, "cacert"),
        .wanted = !ctl_args_bool(c->args, "insecure-transport"),
        .skip_verify = ctl_args_bool(c->args, "insecure-skip-tls-verify"),
        .endpoints = c->endpoints,
        .endpoint_count = c->endpoint_count,
    });
    read_user(c);
}

/* NULL and *ret_error when the endpoints or the user are refused. */
static struct ctl_client *connect_to(struct ctl *c, char **endpoints, size_t count,
                                     struct ctl_error *ret_error)
{
    Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    char *why = NULL;
    struct ctl_client *client;
    int code;

    ctl_globals(c);
    client = ctl_client_new(c->loop,
                            &(struct ctl_client_conf){
                                .endpoints = endpoints,
                                .endpoint_count = count,
                                .dial_ms = c->dial_ms,
                                .keepalive_ms = c->keepalive_ms,
                                .keepalive_timeout_ms = c->keepalive_timeout_ms,
                                .tls = c->tls,
                                .tls_name = c->tls_name,
                                .request_bytes_max = c->request_bytes_max,
                                .answer_bytes_max = c->answer_bytes_max,
                                .token = ctl_args_string(c->args, "auth-jwt-token"),
                            },
                            &why);
    if (client == NULL) {
        *ret_error = (struct ctl_error){.code = CTL_INVALID_ARGUMENT, .message = why};
        return NULL;
    }
    if (c->user == NULL)
        return client;
    request.name = c->user;
    request.password = c->password;
    code = ctl_client_unary(client, &ctl_method_authenticate, &request.base, c->dial_ms, &answer,
                            ret_error);
    if (code == 0) {
        ctl_client_set_token(client,
                             ((const Etcdserverpb__AuthenticateResponse *)(void *)answer)->token);
        ctl_client_set_user(client, c->user, c->password);
        ctl_answer_free(answer);
    } else if (strcmp(ret_error->message, "etcdserver: authentication is not enabled") == 0) {
        ctl_error_fini(ret_error);
    } else {
        ctl_client_free(client);
        return NULL;
    }
    return client;
}

struct ctl_client *ctl_connect(struct ctl *c)
{
    struct ctl_error error = {0};

    ctl_globals(c);
    if (c->client == NULL)
        c->client = connect_to(c, c->endpoints, c->endpoint_count, &error);
    if (c->client == NULL)
        ctl_die(error.code == CTL_DEADLINE_EXCEEDED ? CTL_EXIT_ERROR : CTL_EXIT_BAD_CONNECTION,
                "%s", error.message);
    return c->client;
}

struct ctl_client *ctl_connect_one(struct ctl *c, char *endpoint, struct ctl_error *ret_error)
{
    ctl_globals(c);
    return connect_to(c, &endpoint, 1, ret_error);
}
