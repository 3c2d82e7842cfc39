/*
 * See ctl_client.h. An endpoint is idle, connecting or up; one that failed is tried again after a
 * pause that doubles. Calls that have no connection wait in `waiting` and start when one is up.
 * Each call owns its framed requests until it is answered, so that it can be sent again.
 */
#include "ctl/ctl_client.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <arpa/inet.h>
#include "lib/http/http_client.h"
#include "lib/loop/loop.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/util/buf.h"
#include "lib/util/list.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    ADDRESSES_MAX = 4,
    PAUSE_MS_MIN = 100,
    PAUSE_MS_MAX = 3000,
    RETRY_MS = 25,        /* between two sendings of one call */
    FRAME_HEAD_BYTES = 5, /* of a gRPC message */
};

struct endpoint {
    struct ctl_client *client;
    char *text;
    char *host, *authority;
    uint16_t port;
    bool tls, plain; /* https or certificates; http:// in so many words */
    bool local;      /* a socket in the file system; host is its path */
    char addresses[ADDRESSES_MAX][128];
    size_t address_count, address_next;
    struct http_client *http; /* NULL: idle */
    bool up;
    struct loop_timer *timer; /* the pause after a failure */
    uint64_t pause_ms;
    char *error; /* of the last attempt */
};

struct ctl_client {
    struct loop *loop;
    struct endpoint *endpoints;
    size_t endpoint_count;
    size_t next; /* round robin */
    struct tls_context *tls;
    char *tls_name;
    uint64_t dial_ms, keepalive_ms, keepalive_timeout_ms;
    uint64_t request_bytes_max, answer_bytes_max;
    char *token, *user, *password;
    bool quiet, renewing;
    struct list waiting; /* struct ctl_call.link */
    struct list started;
    struct list renewal; /* wait for a new token */
};

struct ctl_call {
    struct list link;
    struct ctl_client *client;
    const struct ctl_method *method;
    const struct ctl_call_handler *handler;
    void *user;
    struct http_call *http;
    struct endpoint *endpoint;
    struct buf requests; /* framed */
    struct buf answer;
    struct loop_timer *timer; /* deadline */
    struct loop_timer *retry;
    bool stream, finished, require_leader, answered, renewed;
    int code;         /* decided before the stream closed; -1: not yet */
    size_t too_large; /* the answer, if that was the reason */
};

/* ---- errors ---- */

static const char *code_name(int code)
{
    static const char *const names[] = {
        "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
        "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
        "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
        "DataLoss", "Unauthenticated"};

    return code >= 0 && (size_t)code < ARRAY_LEN(names) ? names[code] : "Unknown";
}

char *ctl_error_text(int code, const char *message)
{
    if (strncmp(message, "etcdserver: ", 12) == 0)
        return xstrdup(message);
    if (code == CTL_DEADLINE_EXCEEDED)
        return xstrdup("context deadline exceeded");
    if (code == CTL_CANCELED)
        return xstrdup("context canceled");
    return xasprintf("rpc error: code = %s desc = %s", code_name(code), message);
}

void ctl_error_fini(struct ctl_error *e)
{
    free(e->message);
    *e = (struct ctl_error){0};
}

static void warn_line(const struct ctl_client *client, const char *target, int code,
                      const char *why)
{
    struct timespec now;
    struct tm tm;
    char stamp[32];

    if (client->quiet)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(stderr,
            "{\"level\":\"warn\",\"ts\":\"%s.%06ldZ\",\"logger\":\"client\",\"msg\":\"no endpoint "
            "answered\",\"target\":\"%s\",\"error\":\"rpc error: code = %s desc = %s\"}\n",
            stamp, now.tv_nsec / 1000, target, code_name(code), why);
}

/* ---- endpoints ---- */

/* "unix://PATH", "unix:PATH" and the same with TLS. False: something else. */
static bool endpoint_parse_local(struct endpoint *e, const char *text)
{
    const char *rest;

    if (strncmp(text, "unix:", 5) != 0 && strncmp(text, "unixs:", 6) != 0)
        return false;
    rest = strchr(text, ':') + 1;
    if (rest[0] == '/' && rest[1] == '/')
        rest += 2;
    e->local = true;
    e->tls = text[4] == 's';
    e->plain = !e->tls;
    e->text = xstrdup(text);
    e->host = xstrdup(rest);
    e->authority = xstrdup("localhost");
    return true;
}

static int endpoint_parse(struct endpoint *e, const char *text, char **ret_error)
{
    const char *rest = text, *colon;
    const char *slash;
    size_t len;

    if (endpoint_parse_local(e, text))
        return 0;
    if (strncmp(text, "http://", 7) == 0) {
        rest = text + 7;
        e->plain = true;
    } else if (strncmp(text, "https://", 8) == 0) {
        rest = text + 8;
        e->tls = true;
    } else if (strstr(text, "://") != NULL) {
        *ret_error = xasprintf("endpoint \"%s\": unknown scheme", text);
        return -EINVAL;
    }
    slash = strchr(rest, '/');
    len = slash != NULL ? (size_t)(slash - rest) : strlen(rest);
    e->text = xstrdup(text);
    e->authority = xstrndup(rest, len);
    colon = strrchr(e->authority, ':');
    if (e->authority[0] == '[') {
        const char *close = strchr(e->authority, ']');

        if (close == NULL || (close[1] != ':' && close[1] != '\0')) {
            *ret_error = xasprintf("endpoint \"%s\": bad address", text);
            return -EINVAL;
        }
        e->host = xstrndup(e->authority + 1, (size_t)(close - e->authority) - 1);
        colon = close[1] == ':' ? close + 1 : NULL;
    } else {
        e->host = colon != NULL ? xstrndup(e->authority, (size_t)(colon - e->authority))
                                : xstrdup(e->authority);
    }
    if (e->host[0] == '\0') {
        free(e->host);
        e->host = xstrdup("localhost"); /* ":2379" */
    }
    e->port = e->tls ? 443 : 80;
    if (colon != NULL) {
        char *end;
        unsigned long port = strtoul(colon + 1, &end, 10);

        if (colon[1] == '\0' || *end != '\0' || port == 0 || port > 65535) {
            *ret_error = xasprintf("endpoint \"%s\": bad port", text);
            return -EINVAL;
        }
        e->port = (uint16_t)port;
    }
    return 0;
}

/* Blocks, as a program for one command may. */
static void endpoint_resolve(struct endpoint *e)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int r;

    e->address_count = e->address_next = 0;
    if (e->local) {
        snprintf(e->addresses[0], sizeof(e->addresses[0]), "unix:%s", e->host);
        e->address_count = 1;
        return;
    }
    r = getaddrinfo(e->host, NULL, &hints, &list);
    for (struct addrinfo *a = list; r == 0 && a != NULL && e->address_count < ADDRESSES_MAX;
         a = a->ai_next)
        if (getnameinfo(a->ai_addr, a->ai_addrlen, e->addresses[e->address_count],
                        sizeof(e->addresses[0]), NULL, 0, NI_NUMERICHOST) == 0)
            e->address_count++;
    if (list != NULL)
        freeaddrinfo(list);
    if (e->address_count == 0 && strcmp(e->host, "localhost") == 0) {
        snprintf(e->addresses[0], sizeof(e->addresses[0]), "127.0.0.1");
        e->address_count = 1;
    }
    if (e->address_count == 0) {
        free(e->error);
        e->error = xasprintf("connection error: desc = \"transport: Error while dialing: dial "
                             "tcp: lookup %s: %s\"",
                             e->host, gai_strerror(r));
    }
}

/* "tcp 127.0.0.1:1" or "unix a.sock", of the address that was tried. */
static char *endpoint_target(const struct endpoint *e)
{
    return e->local ? xasprintf("unix %s", e->host)
                    : xasprintf("tcp %s:%u", e->addresses[e->address_next], e->port);
}

static void endpoint_connect(void *user);
static void calls_start(struct ctl_client *client);

static void endpoint_pause(struct endpoint *e)
{
    loop_timer_start(e->timer, e->pause_ms, 0);
    e->pause_ms = MIN(e->pause_ms * 2, (uint64_t)PAUSE_MS_MAX);
}

static void on_connected(void *user, struct http_client *http)
{
    struct endpoint *e = user;

    e->up = true;
    e->pause_ms = PAUSE_MS_MIN;
    calls_start(e->client);
}

static char *lower_strerror(int error)
{
    char *text = xstrdup(strerror(error));

    if (text[0] >= 'A' && text[0] <= 'Z' && text[1] >= 'a')
        text[0] = (char)(text[0] | 0x20);
    return text;
}

static void on_disconnected(void *user, struct http_client *http, int error)
{
    struct endpoint *e = user;
    bool was_up = e->up;

    if (!was_up) {
        const char *tls_error = http_client_tls_error(http);
        CLEANUP(freep) char *why = lower_strerror(error < 0 ? -error : ECONNRESET);
        CLEANUP(freep) char *target = endpoint_target(e);

        free(e->error);
        if (tls_error != NULL && tls_error[0] != '\0')
            e->error = xasprintf("connection error: desc = \"transport: authentication handshake "
                                 "failed: %s\"",
                                 tls_error);
        else
            e->error = xasprintf("connection error: desc = \"transport: Error while dialing: dial "
                                 "%s: connect: %s\"",
                                 target, why);
        e->address_next++;
    }
    e->up = false;
    e->http = NULL;
    http_client_free(http);
    if (was_up || e->address_next < e->address_count)
        loop_timer_start(e->timer, 0, 0);
    else
        endpoint_pause(e);
}

static void endpoint_connect(void *user)
{
    static const struct http_client_handler handler = {.on_connected = on_connected,
                                                       .on_disconnected = on_disconnected};
    struct endpoint *e = user;
    struct ctl_client *client = e->client;

    if (e->http != NULL)
        return;
    if (e->address_next >= e->address_count)
        endpoint_resolve(e);
    for (; e->address_next < e->address_count; e->address_next++) {
        CLEANUP(freep) char *target = NULL;
        struct http_client_options options = {
            .version = HTTP_VERSION_2,
            .connect_ms_max = client->dial_ms,
            .authority = e->authority,
            .keepalive_ms = client->keepalive_ms,
            .keepalive_timeout_ms = client->keepalive_timeout_ms,
            .tls = e->tls ? client->tls : NULL,
            .tls_name = client->tls_name != NULL ? client->tls_name
                        : e->local               ? "localhost"
                                                 : e->host,
        };

        e->http = http_client_connect(client->loop, e->addresses[e->address_next], e->port,
                                      &options, &handler, e);
        if (e->http != NULL)
            return;
        target = endpoint_target(e);
        free(e->error);
        e->error = xasprintf("connection error: desc = \"transport: Error while dialing: dial "
                             "%s: %s\"",
                             target, strerror(errno));
    }
    endpoint_pause(e);
}

struct ctl_client *ctl_client_new(struct loop *loop, const struct ctl_client_conf *conf,
                                  char **ret_error)
{
    struct ctl_client *client = xcalloc(1, sizeof(*client));

    client->loop = loop;
    client->tls = conf->tls;
    client->tls_name = conf->tls_name != NULL ? xstrdup(conf->tls_name) : NULL;
    client->dial_ms = conf->dial_ms;
    client->keepalive_ms = conf->keepalive_ms;
    client->keepalive_timeout_ms = conf->keepalive_timeout_ms;
    client->quiet = conf->quiet;
    client->request_bytes_max =
        conf->request_bytes_max != 0 ? conf->request_bytes_max : CTL_REQUEST_BYTES_DEFAULT;
    client->answer_bytes_max =
        MIN(conf->answer_bytes_max != 0 ? conf->answer_bytes_max : (uint64_t)INT32_MAX, UINT32_MAX);
    ctl_client_set_token(client, conf->token);
    list_init(&client->waiting);
    list_init(&client->started);
    list_init(&client->renewal);
    client->endpoints = xcalloc(conf->endpoint_count, sizeof(client->endpoints[0]));
    for (size_t i = 0; i < conf->endpoint_count; i++) {
        struct endpoint *e = &client->endpoints[i];

        client->endpoint_count++;
        e->client = client;
        e->pause_ms = PAUSE_MS_MIN;
        e->timer = loop_timer_new(loop, "endpoint", endpoint_connect, e);
        if (endpoint_parse(e, conf->endpoints[i], ret_error) != 0) {
            ctl_client_free(client);
            return NULL;
        }
        if (client->tls != NULL && !e->plain)
            e->tls = true; /* certificates were given and the endpoint does not say otherwise */
    }
    return client;
}

static void call_destroy(struct ctl_call *call);

void ctl_client_free(struct ctl_client *client)
{
    if (client == NULL)
        return;
    for (struct list *lists[] = {&client->waiting, &client->started, &client->renewal}, **l = lists;
         l < lists + 3; l++)
        while (!list_empty(*l))
            call_destroy(LIST_ENTRY((*l)->next, struct ctl_call, link));
    for (size_t i = 0; i < client->endpoint_count; i++) {
        struct endpoint *e = &client->endpoints[i];

        http_client_free(e->http);
        loop_timer_free(e->timer);
        free(e->text);
        free(e->host);
        free(e->authority);
        free(e->error);
    }
    free(client->endpoints);
    free(client->tls_name);
    free(client->token);
    free(client->user);
    free(client->password);
    free(client);
}

void ctl_client_set_token(struct ctl_client *client, const char *token)
{
    free(client->token);
    client->token = token != NULL && *token != '\0' ? xstrdup(token) : NULL;
}

void ctl_client_set_user(struct ctl_client *client, const char *name, const char *password)
{
    free(client->user);
    free(client->password);
    client->user = xstrdup(name);
    client->password = xstrdup(password);
}

size_t ctl_client_endpoint_count(const struct ctl_client *client)
{
    return client->endpoint_count;
}

/* The next endpoint that is up; starts connecting those that are idle. */
static struct endpoint *endpoint_pick(struct ctl_client *client)
{
    for (size_t i = 0; i < client->endpoint_count; i++) {
        struct endpoint *e = &client->endpoints[i];

        if (e->http == NULL && !loop_timer_active(e->timer))
            endpoint_connect(e);
    }
    for (size_t i = 0; i < client->endpoint_count; i++) {
        struct endpoint *e = &client->endpoints[(client->next + i) % client->endpoint_count];

        if (e->up && http_client_connected(e->http)) {
            client->next = (size_t)(e - client->endpoints) + 1;
            return e;
        }
    }
    return NULL;
}

/* ---- calls ---- */

static void call_wait(struct ctl_call *call)
{
    call->endpoint = NULL;
    list_remove(&call->link);
    list_push_back(&call->client->waiting, &call->link);
}

static void call_destroy(struct ctl_call *call)
{
    struct http_call *http = call->http;

    call->http = NULL;
    list_remove(&call->link);
    loop_timer_free(call->timer);
    loop_timer_free(call->retry);
    call->timer = call->retry = NULL;
    if (http != NULL) {
        call->handler = NULL; /* its on_closed still comes and frees */
        http_call_cancel(http);
        return;
    }
    buf_fini(&call->requests);
    buf_fini(&call->answer);
    free(call);
}

static void call_done(struct ctl_call *call, int code, const char *message)
{
    const struct ctl_call_handler *handler = call->handler;
    void *user = call->user;
    CLEANUP(freep) char *text = code != 0 ? ctl_error_text(code, message) : xstrdup("");

    call_destroy(call);
    if (handler != NULL && handler->on_done != NULL)
        handler->on_done(user, code, text);
}

static void on_deadline(void *user)
{
    struct ctl_call *call = user;
    struct ctl_client *client = call->client;

    if (call->http == NULL) {
        for (size_t i = 0; i < client->endpoint_count; i++) {
            const struct endpoint *e = &client->endpoints[i];

            if (!e->up && e->error != NULL) {
                CLEANUP(freep) char *escaped = xstrdup(e->error);
                struct buf text = BUF_INIT;

                for (const char *p = escaped; *p != '\0'; p++)
                    buf_appendf(&text, *p == '"' || *p == '\\' ? "\\%c" : "%c", *p);
                buf_append_u8(&text, 0);
                warn_line(client, e->text, CTL_DEADLINE_EXCEEDED, (const char *)text.data);
                buf_fini(&text);
            }
        }
    }
    call_done(call, CTL_DEADLINE_EXCEEDED, "context deadline exceeded");
}

static void frame_append(struct buf *out, const ProtobufCMessage *message)
{
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *p = buf_reserve(out, size + 5);

    p[0] = 0;
    for (int i = 0; i < 4; i++)
        p[1 + i] = (uint8_t)(size >> (24 - 8 * i));
    protobuf_c_message_pack(message, p + 5);
    out->len += size + 5;
}

static void on_http_data(void *user, struct http_call *http, struct bytes data)
{
    struct ctl_call *call = user;
    size_t at = 0;

    if (call->handler == NULL || call->code >= 0)
        return;
    buf_append_bytes(&call->answer, data);
    while (call->answer.len - at >= 5) {
        const uint8_t *p = call->answer.data + at;
        size_t size = (size_t)p[1] << 24 | (size_t)p[2] << 16 | (size_t)p[3] << 8 | p[4];
        const struct ctl_call_handler *handler = call->handler;

        if (p[0] != 0 || size > call->client->answer_bytes_max) {
            call->code = p[0] != 0 ? CTL_INTERNAL : CTL_RESOURCE_EXHAUSTED;
            call->too_large = p[0] != 0 ? 0 : size;
            http_call_cancel(http);
            return;
        }
        if (call->answer.len - at - 5 < size)
            break;
        call->answered = true;
        at += 5 + size;
        handler->on_message(call->user, bytes_of(p + 5, size));
        if (call->handler == NULL)
            return; /* freed by its owner */
    }
    buf_consume(&call->answer, at);
}

/* "%41" for "A", as grpc-message is written. */
static char *percent_decode(struct bytes text)
{
    char *out = xmalloc(text.len + 1);
    size_t len = 0;

    for (size_t i = 0; i < text.len; i++) {
        unsigned int value;
        char hex[3] = {0};

        if (text.data[i] == '%' && i + 2 < text.len) {
            memcpy(hex, text.data + i + 1, 2);
            if (sscanf(hex, "%2x", &value) == 1) {
                out[len++] = (char)value;
                i += 2;
                continue;
            }
        }
        out[len++] = (char)text.data[i];
    }
    out[len] = '\0';
    return out;
}

/* The status the server gave; -1: none. *ret_message: free() */
static int grpc_status(struct http_call *http, char **ret_message)
{
    struct bytes status = http_call_trailer(http, "grpc-status");
    struct bytes message = http_call_trailer(http, "grpc-message");
    int code = 0;

    if (status.data == NULL) {
        status = http_call_header(http, "grpc-status"); /* Trailers-Only */
        message = http_call_header(http, "grpc-message");
    }
    if (status.data == NULL || status.len == 0 || status.len > 2)
        return -1;
    for (size_t i = 0; i < status.len; i++) {
        if (status.data[i] < '0' || status.data[i] > '9')
            return -1;
        code = code * 10 + (status.data[i] - '0');
    }
    *ret_message = percent_decode(message);
    return code;
}

/* A request that is too large goes nowhere, not even to the next endpoint. */
static void on_request_too_large(void *user)
{
    struct ctl_call *call = user;
    CLEANUP(freep)
    char *message =
        xasprintf("trying to send message larger than max (%zu vs. %" PRIu64 ")",
                  call->requests.len - FRAME_HEAD_BYTES, call->client->request_bytes_max);

    call_done(call, CTL_RESOURCE_EXHAUSTED, message);
}

static void on_retry(void *user)
{
    struct ctl_call *call = user;

    call_wait(call);
    calls_start(call->client);
}

static void call_again(struct ctl_call *call)
{
    buf_clear(&call->answer);
    list_remove(&call->link);
    list_push_back(&call->client->started, &call->link); /* not picked up before the pause ends */
    if (call->retry == NULL)
        call->retry = loop_timer_new(call->client->loop, "retry", on_retry, call);
    loop_timer_start(call->retry, RETRY_MS, 0);
}

static void token_renew(struct ctl_client *client);

static void on_http_closed(void *user, struct http_call *http, int error)
{
    struct ctl_call *call = user;
    CLEANUP(freep) char *message = NULL;
    int code;

    call->http = NULL;
    if (call->handler == NULL) {
        call_destroy(call);
        return;
    }
    if (call->code >= 0) {
        if (call->too_large != 0)
            message = xasprintf("grpc: received message larger than max (%zu vs. %" PRIu64 ")",
                                call->too_large, call->client->answer_bytes_max);
        call_done(call, call->code, message != NULL ? message : "malformed answer");
        return;
    }
    code = grpc_status(http, &message);
    if (code < 0 && error == 0) {
        int status = http_call_status(http);

        message = xasprintf("unexpected HTTP status code received from server: %d (%s)", status,
                            http_status_text(status));
        code = status == 404 ? CTL_UNIMPLEMENTED : CTL_UNKNOWN;
    } else if (code < 0) {
        uint32_t reset = http_call_reset_code(http);
        bool unsent = error == -ECONNRESET && reset == HTTP_RESET_REFUSED_STREAM;

        if (!call->stream && !call->answered && (unsent || call->method->reads_only)) {
            call_again(call);
            return;
        }
        code = CTL_UNAVAILABLE;
        message = xstrdup("error reading from server: EOF");
    }
    if (code == CTL_UNAVAILABLE && !call->stream && !call->answered && call->method->reads_only) {
        call_again(call);
        return;
    }
    if (code == CTL_UNAUTHENTICATED && !call->renewed && call->client->user != NULL &&
        strcmp(message, "etcdserver: invalid auth token") == 0 && !call->stream) {
        call->renewed = true;
        list_remove(&call->link);
        list_push_back(&call->client->renewal, &call->link);
        token_renew(call->client);
        return;
    }
    call_done(call, code, message);
}

static bool call_send_on(struct ctl_call *call, struct endpoint *e)
{
    static const struct http_call_handler handler = {.on_data = on_http_data,
                                                     .on_closed = on_http_closed};
    struct http_header headers[6] = {HTTP_HEADER("content-type", "application/grpc"),
                                     HTTP_HEADER("te", "trailers"),
                                     HTTP_HEADER("user-agent", "conclavectl")};
    size_t header_count = 3;
    struct bytes body = buf_bytes(&call->requests);

    if (call->require_leader)
        headers[header_count++] = HTTP_HEADER("hasleader", "true");
    if (call->client->token != NULL) {
        headers[header_count] = HTTP_HEADER("token", "");
        headers[header_count++].value = bytes_str(call->client->token);
    }
    call->http = http_call_start(e->http, &(struct http_call_args){
                                              .method = BYTES_LIT("POST"),
                                              .path = bytes_str(call->method->path),
                                              .headers = headers,
                                              .header_count = header_count,
                                              .body = &body,
                                              .body_count = body.len > 0 ? 1 : 0,
                                              .body_open = !call->finished,
                                              .handler = &handler,
                                              .user = call,
                                          });
    if (call->http == NULL)
        return false;
    call->endpoint = e;
    list_remove(&call->link);
    list_push_back(&call->client->started, &call->link);
    return true;
}

/* Starts what waits, as far as there are connections. */
static void calls_start(struct ctl_client *client)
{
    while (!list_empty(&client->waiting)) {
        struct endpoint *e = endpoint_pick(client);

        if (e == NULL || !call_send_on(LIST_ENTRY(client->waiting.next, struct ctl_call, link), e))
            return;
    }
}

struct ctl_call *ctl_call_start(struct ctl_client *client, const struct ctl_call_args *args)
{
    struct ctl_call *call = xcalloc(1, sizeof(*call));

    call->client = client;
    call->method = args->method;
    call->handler = args->handler;
    call->user = args->user;
    call->stream = args->stream;
    call->finished = !args->stream;
    call->require_leader = args->require_leader;
    call->code = -1;
    list_init(&call->link);
    if (args->request != NULL)
        frame_append(&call->requests, args->request);
    if (args->timeout_ms != 0) {
        call->timer = loop_timer_new(client->loop, "deadline", on_deadline, call);
        loop_timer_start(call->timer, args->timeout_ms, 0);
    }
    if (call->requests.len > client->request_bytes_max + FRAME_HEAD_BYTES) {
        call->retry = loop_timer_new(client->loop, "too large", on_request_too_large, call);
        list_push_back(&client->started, &call->link);
        loop_timer_start(call->retry, 0, 0);
        return call;
    }
    call_wait(call);
    calls_start(client);
    return call;
}

void ctl_call_send(struct ctl_call *call, const ProtobufCMessage *message)
{
    if (call->http == NULL) {
        frame_append(&call->requests, message);
        return;
    }
    buf_clear(&call->requests);
    frame_append(&call->requests, message);
    http_call_data(call->http, buf_bytes(&call->requests));
}

void ctl_call_finish(struct ctl_call *call)
{
    if (call->finished)
        return;
    call->finished = true;
    if (call->http != NULL)
        http_call_end(call->http);
}

void ctl_call_free(struct ctl_call *call)
{
    if (call != NULL)
        call_destroy(call);
}

/* ---- a new token ---- */

static void on_token(void *user, struct bytes message)
{
    struct ctl_client *client = user;
    Etcdserverpb__AuthenticateResponse *answer =
        etcdserverpb__authenticate_response__unpack(NULL, message.len, message.data);

    if (answer != NULL)
        ctl_client_set_token(client, answer->token);
    etcdserverpb__authenticate_response__free_unpacked(answer, NULL);
}

static void on_token_done(void *user, int code, const char *message)
{
    struct ctl_client *client = user;

    client->renewing = false;
    while (!list_empty(&client->renewal)) {
        struct ctl_call *call = LIST_ENTRY(client->renewal.next, struct ctl_call, link);

        if (code == 0)
            call_wait(call);
        else
            call_done(call, code, message);
    }
    calls_start(client);
}

static void token_renew(struct ctl_client *client)
{
    static const struct ctl_call_handler handler = {.on_message = on_token,
                                                    .on_done = on_token_done};
    Etcdserverpb__AuthenticateRequest request = ETCDSERVERPB__AUTHENTICATE_REQUEST__INIT;

    if (client->renewing)
        return;
    client->renewing = true;
    request.name = client->user;
    request.password = client->password;
    ctl_client_set_token(client, NULL);
    ctl_call_start(client, &(struct ctl_call_args){.method = &ctl_method_authenticate,
                                                   .request = &request.base,
                                                   .timeout_ms = 5000,
                                                   .handler = &handler,
                                                   .user = client});
}

/* ---- waiting for one answer ---- */

struct unary {
    const struct ctl_method *method;
    ProtobufCMessage *answer;
    struct ctl_error error;
    bool done, malformed;
};

static void on_unary_message(void *user, struct bytes message)
{
    struct unary *u = user;

    if (u->answer != NULL)
        return;
    u->answer = protobuf_c_message_unpack(u->method->response, NULL, message.len, message.data);
    u->malformed = u->answer == NULL;
}

static void on_unary_done(void *user, int code, const char *message)
{
    struct unary *u = user;

    u->done = true;
    if (code == 0 && u->answer == NULL) {
        u->error.code = CTL_INTERNAL;
        u->error.message = ctl_error_text(CTL_INTERNAL, "the answer makes no sense");
        return;
    }
    u->error.code = code;
    u->error.message = code != 0 ? xstrdup(message) : NULL;
}

int ctl_client_unary(struct ctl_client *client, const struct ctl_method *method,
                     const ProtobufCMessage *request, uint64_t timeout_ms, ProtobufCMessage **ret,
                     struct ctl_error *ret_error)
{
    static const struct ctl_call_handler handler = {.on_message = on_unary_message,
                                                    .on_done = on_unary_done};
    struct unary u = {.method = method};

    ctl_call_start(client, &(struct ctl_call_args){.method = method,
                                                   .request = request,
                                                   .timeout_ms = timeout_ms,
                                                   .handler = &handler,
                                                   .user = &u});
    while (!u.done)
        loop_run_once(client->loop, 1000);
    if (u.error.code != 0) {
        if (u.answer != NULL)
            protobuf_c_message_free_unpacked(u.answer, NULL);
        *ret_error = u.error;
        return u.error.code;
    }
    *ret = u.answer;
    return 0;
}
