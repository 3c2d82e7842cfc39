/*
 * The client connection: connects without blocking, reads, writes once per turn, and keeps the
 * calls with their deadlines. What the bytes mean is the protocol's business (h1_client.c,
 * h2_client.c).
 *
 *   connecting -> up -> [ending: GOAWAY, or "connection: close"] -> down
 */
#include "lib/http/http_client_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>
#include "lib/util/xmalloc.h"

enum { CONNECT_MS_DEFAULT = 5000, HEADER_BYTES_DEFAULT = 65536 };

static const char unix_prefix[] = "unix:";

/* Calls */

static struct http_call *call_new(struct http_client *client, const struct http_call_args *args)
{
    struct list *node = list_pop_front(&client->pool);
    struct http_call *call;

    if (node != NULL) {
        client->pool_count--;
        call = LIST_ENTRY(node, struct http_call, link);
    } else {
        call = xmalloc(sizeof(*call));
        call->text = BUF_INIT;
        list_init(&call->link);
    }
    call->client = client;
    call->handler = args->handler;
    call->user = args->user;
    call->deadline_ms = 0;
    call->stream_id = 0;
    call->status = 0;
    call->error = 0;
    call->reset_code = 0;
    call->open = args->body_open;
    call->deferred = call->started = call->answer_over = call->headers_told = false;
    call->headers_too_large = false;
    call->head = bytes_eq(args->method, BYTES_LIT("HEAD"));
    call->chunks = (struct http_chunk_queue){NULL, NULL};
    call->queued = 0;
    call->fields = call->inline_fields;
    call->field_count = 0;
    call->field_cap = HTTP_CALL_FIELDS;
    call->trailer_start = SIZE_MAX;
    call->header_bytes = 0;
    call->overflow = NULL;
    call->arena_used = 0;
    list_push_back(&client->calls, &call->link);
    client->call_count++;
    return call;
}

void *http_call_alloc(struct http_call *call, size_t len)
{
    size_t at = (call->arena_used + 7) & ~(size_t)7;
    void **block;

    if (at <= sizeof(call->arena) && len <= sizeof(call->arena) - at) {
        call->arena_used = at + len;
        return call->arena + at;
    }
    block = xmalloc(16 + len);
    *block = call->overflow;
    call->overflow = block;
    return (uint8_t *)block + 16;
}

struct http_field *http_call_add_field(struct http_call *call)
{
    struct http_field *f;

    if (call->field_count == call->field_cap) {
        size_t cap = call->field_cap * 2;
        struct http_field *grown = xreallocarray(NULL, cap, sizeof(*grown));

        memcpy(grown, call->fields, call->field_count * sizeof(*grown));
        if (call->fields != call->inline_fields)
            free(call->fields);
        call->fields = grown;
        call->field_cap = cap;
    }
    f = &call->fields[call->field_count++];
    *f = (struct http_field){0};
    return f;
}

static void call_free(struct http_call *call)
{
    buf_fini(&call->text);
    free(call);
}

static void call_release(struct http_call *call)
{
    struct http_client *client = call->client;
    void *block = call->overflow;
    struct http_chunk *c;

    client->proto->release(call);
    buf_clear(&call->text);
    buf_trim(&call->text, HTTP_REQ_BODY_KEEP_BYTES);
    while ((c = http_chunk_pop(&call->chunks)) != NULL)
        if (c->heap)
            http_chunk_push(&client->spent, c);
    while (block != NULL) {
        void *next = *(void **)block;

        free(block);
        block = next;
    }
    if (call->fields != call->inline_fields)
        free(call->fields);
    list_remove(&call->link);
    client->call_count--;
    if (client->pool_count >= HTTP_CALL_POOL_MAX) {
        call_free(call);
        return;
    }
    list_push_front(&client->pool, &call->link);
    client->pool_count++;
}

void http_call_over(struct http_call *call, int error)
{
    struct http_client *client = call->client;

    client->depth++;
    call->handler->on_closed(call->user, call, error);
    client->depth--;
    call_release(call);
}

void http_call_over_later(struct http_call *call, int error)
{
    call->error = error;
    list_remove(&call->link);
    list_push_back(&call->client->over, &call->link);
    http_client_dirty(call->client);
}

void http_call_on_headers(struct http_call *call, int status)
{
    call->status = status;
    call->headers_told = true;
    call->client->depth++;
    if (call->handler->on_headers != NULL)
        call->handler->on_headers(call->user, call, status);
    call->client->depth--;
}

void http_call_on_data(struct http_call *call, const uint8_t *data, size_t len)
{
    call->client->depth++;
    if (call->handler->on_data != NULL && len != 0)
        call->handler->on_data(call->user, call, bytes_of(data, len));
    call->client->depth--;
}

void http_call_on_trailers(struct http_call *call)
{
    call->client->depth++;
    if (call->handler->on_trailers != NULL)
        call->handler->on_trailers(call->user, call);
    call->client->depth--;
}

static struct bytes find_field(const struct http_call *call, const char *name, size_t from,
                               size_t to)
{
    struct bytes want = bytes_str(name);

    for (size_t i = from; i < to; i++)
        if (bytes_eq(call->fields[i].name, want))
            return call->fields[i].value.data != NULL ? call->fields[i].value : BYTES_LIT("");
    return BYTES_EMPTY;
}

int http_call_status(const struct http_call *call)
{
    return call->status;
}

struct bytes http_call_header(const struct http_call *call, const char *name)
{
    return find_field(call, name, 0, MIN(call->trailer_start, call->field_count));
}

struct bytes http_call_trailer(const struct http_call *call, const char *name)
{
    return find_field(call, name, MIN(call->trailer_start, call->field_count), call->field_count);
}

uint32_t http_call_reset_code(const struct http_call *call)
{
    return call->reset_code;
}

static void call_push(struct http_call *call, const struct bytes *pieces, size_t count)
{
    size_t len = http_pieces_len(pieces, count);
    struct http_chunk *c;

    if (len == 0)
        return;
    if (len <= HTTP_CALL_ARENA_BYTES / 2 && !call->open) {
        c = http_call_alloc(call, sizeof(*c) + len);
        *c = (struct http_chunk){.data = (uint8_t *)(c + 1), .len = len, .heap = false};
        http_pieces_copy(c->data, pieces, count);
    } else {
        c = http_chunk_new(pieces, count, len);
    }
    http_chunk_push(&call->chunks, c);
    call->queued += len;
}

static uint64_t now_ms_of(void)
{
    return loop_clock_ns() / 1000000;
}

static void timer_want(struct http_client *client, uint64_t at_ms)
{
    uint64_t now_ms = loop_clock_ns() / 1000000;

    if (client->timer_ms != 0 && client->timer_ms <= at_ms)
        return;
    client->timer_ms = at_ms;
    loop_timer_start(client->timer, at_ms > now_ms ? at_ms - now_ms : 0, 0);
}

/* From now on something is expected. */
static void watch_silence(struct http_client *client)
{
    if (client->keepalive_ms == 0)
        return;
    client->heard_ms = now_ms_of();
    client->pinged_ms = 0;
    timer_want(client, client->heard_ms + client->keepalive_ms);
}

static void heard(struct http_client *client)
{
    if (client->keepalive_ms == 0)
        return;
    client->heard_ms = now_ms_of();
    if (client->pinged_ms == 0)
        return; /* the timer looks at heard_ms */
    client->pinged_ms = 0;
    timer_want(client, client->heard_ms + client->keepalive_ms);
}

/* Asks, or gives up, when the time for it has come. When to look again; 0: nothing is expected. */
static uint64_t check_silence(struct http_client *client, uint64_t now_ms)
{
    if (client->keepalive_ms == 0 || !client->connected || client->call_count == 0)
        return 0;
    if (client->pinged_ms == 0 && now_ms >= client->heard_ms + client->keepalive_ms) {
        client->proto->ping(client);
        client->pinged_ms = now_ms;
        http_client_dirty(client);
    }
    if (client->pinged_ms == 0)
        return client->heard_ms + client->keepalive_ms;
    if (now_ms >= client->pinged_ms + client->keepalive_timeout_ms)
        http_client_down(client, -ETIMEDOUT);
    return client->pinged_ms + client->keepalive_timeout_ms;
}

struct http_call *http_call_start(struct http_client *client, const struct http_call_args *args)
{
    struct http_call *call;

    assert(args->handler != NULL);
    assert(args->handler->on_closed != NULL);
    if (client->ending || client->down) {
        errno = ENOTCONN;
        return NULL;
    }
    call = call_new(client, args);
    call_push(call, args->body, args->body_count);
    client->proto->call(call, args);
    if (call->error != 0) {
        errno = -call->error;
        call_release(call);
        return NULL;
    }
    if (args->deadline_ms != 0) {
        call->deadline_ms = loop_clock_ns() / 1000000 + args->deadline_ms;
        timer_want(client, call->deadline_ms);
    }
    if (client->connected)
        http_client_dirty(client);
    if (client->connected && client->call_count == 1)
        watch_silence(client);
    return call;
}

void http_call_data(struct http_call *call, struct bytes data)
{
    assert(call->open);
    if (call->error != 0)
        return;
    call_push(call, &data, 1);
    call->client->proto->data(call);
    http_client_dirty(call->client);
}

void http_call_end(struct http_call *call)
{
    if (!call->open)
        return;
    call->open = false;
    if (call->error != 0)
        return;
    call->client->proto->data(call);
    http_client_dirty(call->client);
}

static void call_cancel(struct http_call *call, int error)
{
    if (call->error != 0)
        return;
    call->error = error;
    call->client->proto->cancel(call);
    http_client_dirty(call->client);
}

void http_call_cancel(struct http_call *call)
{
    call_cancel(call, -ECANCELED);
}

/* The connection */

void http_client_dirty(struct http_client *client)
{
    loop_hook_arm(client->flush);
}

void http_client_down(struct http_client *client, int error)
{
    if (client->down)
        return;
    client->down = client->ending = true;
    client->error = error;
    http_client_dirty(client);
}

static void update_io(struct http_client *client)
{
    unsigned int events = client->socket_up ? LOOP_READ : LOOP_WRITE;

    if (http_out_pending(&client->out) != 0 || http_transport_pending(&client->transport) != 0)
        events |= LOOP_WRITE;
    if (events == client->io_events)
        return;
    client->io_events = events;
    loop_io_set(client->io, events);
}

/* Top of the stack only. May free the client. */
static void settle(struct http_client *client)
{
    if (!client->down) {
        update_io(client);
        return;
    }
    if (client->told)
        return;
    client->told = true;
    client->connected = false;
    loop_io_free(client->io);
    client->io = NULL;
    client->transport.ops->close(
        &client->transport); /* the server hears of it now, not at x_free */
    loop_timer_stop(client->timer);
    while (!list_empty(&client->over)) {
        struct http_call *call = LIST_ENTRY(client->over.next, struct http_call, link);

        http_call_over(call, call->error);
    }
    while (!list_empty(&client->calls)) {
        struct http_call *call = LIST_ENTRY(client->calls.next, struct http_call, link);

        http_call_over(call, call->error != 0 ? call->error : -ECONNRESET);
    }
    if (client->handler != NULL && client->handler->on_disconnected != NULL)
        client->handler->on_disconnected(client->user, client, client->error);
}

/* False: it is down. */
static bool on_socket_up(struct http_client *client)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(client->transport.fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error != 0)
        http_client_down(client, -error);
    client->socket_up = error == 0;
    return client->socket_up;
}

/* The server's choice, where it makes one, must be what the caller asked for. */
static bool speaks(const struct http_client *client, const char *alpn)
{
    return alpn == NULL || strcmp(alpn, client->proto == &h2_client_proto ? "h2" : "http/1.1") == 0;
}

static void on_connect(struct http_client *client)
{
    struct http_transport *t = &client->transport;
    int r = 0;

    if (!client->socket_up && !on_socket_up(client))
        return;
    if (t->ops->handshake != NULL)
        r = t->ops->handshake(t);
    if (r == -EAGAIN)
        return;
    if (r == 0 && !speaks(client, t->ops->alpn(t)))
        r = -EPROTONOSUPPORT;
    if (r < 0) {
        client->tls_error = xstrdup(t->ops->error(t));
        http_client_down(client, r);
        return;
    }
    client->connected = true;
    client->connect_deadline_ms = 0;
    watch_silence(client);
    http_client_dirty(client);
    client->depth++;
    if (client->handler != NULL && client->handler->on_connected != NULL)
        client->handler->on_connected(client->user, client);
    client->depth--;
}

static void client_read(struct http_client *client)
{
    uint8_t data[HTTP_READ_BYTES];

    for (int i = 0; i < HTTP_READS_PER_TURN && !client->down; i++) {
        ssize_t n = client->transport.ops->read(&client->transport, data, sizeof(data));
        int r;

        if (n == -EAGAIN)
            return;
        if (n < 0) {
            http_client_down(client, (int)n);
            return;
        }
        if (n == 0) {
            client->proto->eof(client);
            http_client_down(client,
                             client->ending && list_empty(&client->calls) ? 0 : -ECONNRESET);
            return;
        }
        heard(client);
        r = client->proto->input(client, data, (size_t)n);
        if (r < 0) {
            http_client_down(client, r);
            return;
        }
        if ((size_t)n < sizeof(data))
            return;
    }
}

static void on_io(void *user, unsigned int events)
{
    struct http_client *client = user;

    if (client->down)
        return;
    if (!client->connected) {
        if ((events & LOOP_WRITE) != 0 && http_transport_pending(&client->transport) != 0)
            (void)client->transport.ops->flush(&client->transport); /* a read tells what broke */
        on_connect(client);
        if (client->connected && !client->down && client->transport.ops->handshake != NULL)
            client_read(client); /* what came along with the handshake's end */
    } else {
        if ((events & LOOP_WRITE) != 0)
            http_client_dirty(client);
        if ((events & (LOOP_READ | LOOP_HANGUP)) != 0)
            client_read(client);
    }
    settle(client);
}

static int client_write(struct http_client *client)
{
    int r = 0;

    if (http_transport_pending(&client->transport) != 0) {
        r = client->transport.ops->flush(&client->transport);
        if (r < 0 || http_transport_pending(&client->transport) != 0)
            return r;
    }
    for (int i = 0; i < 8 && r == 0; i++) {
        bool more = http_out_pending(&client->out) >= HTTP_READ_BYTES;

        if (!more) {
            r = client->proto->produce(client);
            more = http_scratch_full(&client->scratch);
        }
        if (r == 0)
            r = http_out_write(&client->out, &client->transport, &client->scratch,
                               &client->bytes_out);
        http_chunk_queue_free(&client->spent);
        if (http_out_pending(&client->out) != 0 ||
            http_transport_pending(&client->transport) != 0 || !more)
            return r;
    }
    http_client_dirty(client);
    return r;
}

static void on_flush(void *user)
{
    struct http_client *client = user;
    int r = 0;

    if (client->connected && !client->down)
        r = client_write(client);
    http_scratch_clear(&client->scratch);
    if (r < 0)
        http_client_down(client, r);
    while (!list_empty(&client->over)) {
        struct http_call *call = LIST_ENTRY(client->over.next, struct http_call, link);

        http_call_over(call, call->error);
    }
    settle(client);
}

static void on_timer(void *user)
{
    struct http_client *client = user;
    uint64_t now_ms = loop_clock_ns() / 1000000;
    uint64_t next_ms = client->connect_deadline_ms, silence_ms;

    client->timer_ms = 0;
    if (client->connect_deadline_ms != 0 && now_ms >= client->connect_deadline_ms)
        http_client_down(client, -ETIMEDOUT);
    LIST_FOREACH_SAFE(it, tmp, &client->calls)
    {
        struct http_call *call = LIST_ENTRY(it, struct http_call, link);

        if (call->deadline_ms == 0)
            continue;
        if (now_ms >= call->deadline_ms)
            call_cancel(call, -ETIMEDOUT);
        else if (next_ms == 0 || call->deadline_ms < next_ms)
            next_ms = call->deadline_ms;
    }
    silence_ms = check_silence(client, now_ms);
    if (silence_ms != 0 && (next_ms == 0 || silence_ms < next_ms))
        next_ms = silence_ms;
    if (next_ms != 0 && !client->down)
        timer_want(client, next_ms);
    settle(client);
}

static int parse_path(const char *path, struct sockaddr_storage *ret, socklen_t *ret_len)
{
    struct sockaddr_un *un = (struct sockaddr_un *)(void *)ret;
    size_t len = strlen(path);

    memset(ret, 0, sizeof(*ret));
    if (len == 0 || len >= sizeof(un->sun_path))
        return -EINVAL;
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path, path, len + 1);
    *ret_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
    return 0;
}

static int parse_address(const char *host, uint16_t port, struct sockaddr_storage *ret,
                         socklen_t *ret_len)
{
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)ret;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)ret;

    memset(ret, 0, sizeof(*ret));
    if (inet_pton(AF_INET, host, &in->sin_addr) == 1) {
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        *ret_len = sizeof(*in);
        return 0;
    }
    if (inet_pton(AF_INET6, host, &in6->sin6_addr) == 1) {
        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons(port);
        *ret_len = sizeof(*in6);
        return 0;
    }
    return -EINVAL;
}

/* *ret_error: what connect said at once; it is reported like what it says later. */
static int open_socket(const char *host, uint16_t port, int *ret_error)
{
    struct sockaddr_storage addr;
    socklen_t len;
    bool local = strncmp(host, unix_prefix, sizeof(unix_prefix) - 1) == 0;
    int fd, r = local ? parse_path(host + sizeof(unix_prefix) - 1, &addr, &len)
                      : parse_address(host, port, &addr, &len);

    if (r < 0)
        return r;
    fd = socket(addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (!local)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(fd, (struct sockaddr *)&addr, len) != 0 && errno != EINPROGRESS)
        *ret_error = -errno;
    return fd;
}

struct http_client *http_client_connect(struct loop *loop, const char *host, uint16_t port,
                                        const struct http_client_options *options,
                                        const struct http_client_handler *handler, void *user)
{
    static const struct http_client_options defaults = {.version = HTTP_VERSION_2};
    struct http_client *client;
    int error = 0;
    int fd = open_socket(host, port, &error);

    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    if (options == NULL)
        options = &defaults;
    client = xcalloc(1, sizeof(*client));
    client->loop = loop;
    client->handler = handler;
    client->user = user;
    if (options->tls != NULL)
        http_transport_init_tls(&client->transport, fd, options->tls,
                                options->tls_name != NULL ? options->tls_name : host,
                                options->version == HTTP_VERSION_2 ? "h2" : "http/1.1");
    else
        http_transport_init_plain(&client->transport, fd);
    list_init(&client->calls);
    list_init(&client->over);
    list_init(&client->pool);
    client->header_bytes_max =
        options->header_bytes_max != 0 ? options->header_bytes_max : HEADER_BYTES_DEFAULT;
    client->window_bytes = options->window_bytes;
    if (options->version == HTTP_VERSION_2) {
        client->keepalive_ms = options->keepalive_ms;
        client->keepalive_timeout_ms = options->keepalive_timeout_ms;
    }
    if (options->authority != NULL)
        client->authority = xstrdup(options->authority);
    else if (strncmp(host, unix_prefix, sizeof(unix_prefix) - 1) == 0)
        client->authority = xstrdup("localhost");
    else
        client->authority = xasprintf(strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    client->io = loop_io_new(loop, "http client", fd, on_io, client);
    client->flush = loop_hook_new(loop, "http client flush", LOOP_PHASE_FLUSH, on_flush, client);
    client->timer = loop_timer_new(loop, "http client timer", on_timer, client);
    client->connect_deadline_ms =
        loop_clock_ns() / 1000000 +
        (options->connect_ms_max != 0 ? options->connect_ms_max : CONNECT_MS_DEFAULT);
    client->proto = options->version == HTTP_VERSION_2 ? &h2_client_proto : &h1_client_proto;
    client->proto->start(client);
    timer_want(client, client->connect_deadline_ms);
    if (error != 0)
        http_client_down(client, error);
    else
        update_io(client);
    return client;
}

void http_client_free(struct http_client *client)
{
    struct list *node;

    if (client == NULL)
        return;
    assert(client->depth == 0); /* not from within the callbacks of its own calls */
    client->handler = NULL;
    client->down = client->ending = true;
    settle(client); /* closes, unless that has happened */
    client->proto->fini(client);
    http_chunk_queue_free(&client->spent);
    while ((node = list_pop_front(&client->pool)) != NULL)
        call_free(LIST_ENTRY(node, struct http_call, link));
    loop_hook_free(client->flush);
    loop_timer_free(client->timer);
    http_out_fini(&client->out);
    buf_fini(&client->scratch.buf);
    free(client->authority);
    free(client->tls_error);
    free(client);
}

const char *http_client_tls_error(const struct http_client *client)
{
    return client->tls_error != NULL ? client->tls_error : "";
}

bool http_client_connected(const struct http_client *client)
{
    return client->connected && !client->down;
}

size_t http_client_call_count(const struct http_client *client)
{
    return client->call_count;
}

uint32_t http_client_streams_max(const struct http_client *client)
{
    return client->proto->streams_max(client);
}
