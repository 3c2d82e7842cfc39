/*
 * One connection of the server, whatever it speaks: reads into the server's shared buffer, decides
 * by the first bytes which protocol it is, hands input up, and in the flush hook collects output
 * and writes it with one call.
 *
 *   detecting -> HTTP/1.1 or HTTP/2 -> [finish: last output] -> [lingering: peer still sends] ->
 * gone
 *
 * Back-pressure: a connection whose kernel buffer is full makes no further output (answers stay in
 * their requests), and beyond a limit of what it already made or holds it is not read either.
 */
#include "lib/http/http_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "lib/util/xmalloc.h"

static void conn_on_io(void *user, unsigned int events);

static void format_peer(char *to, size_t size, const struct sockaddr *addr)
{
    char host[INET6_ADDRSTRLEN] = "";

    switch (addr->sa_family) {
    case AF_INET: {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)addr;

        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(to, size, "%s:%u", host, ntohs(in->sin_port));
        break;
    }
    case AF_INET6: {
        const struct sockaddr_in6 *in = (const struct sockaddr_in6 *)(const void *)addr;

        inet_ntop(AF_INET6, &in->sin6_addr, host, sizeof(host));
        snprintf(to, size, "[%s]:%u", host, ntohs(in->sin6_port));
        break;
    }
    default:
        snprintf(to, size, "unix");
    }
}

int http_conn_new(struct http_server *server, int fd, const struct sockaddr *addr,
                  struct tls_context *tls, unsigned int tag)
{
    static uint64_t last_id;
    struct http_conn *conn = xcalloc(1, sizeof(*conn));

    conn->io = loop_io_new(server->loop, "http connection", fd, conn_on_io, conn);
    if (conn->io == NULL) {
        free(conn);
        return -ENOMEM;
    }
    conn->server = server;
    conn->id = ++last_id;
    conn->tag = tag;
    conn->read_ms = loop_now_ms(server->loop);
    if (server->limits.header_ms_max != 0)
        conn->deadline_ms = conn->read_ms + server->limits.header_ms_max;
    if (tls != NULL)
        http_transport_init_tls(&conn->transport, fd, tls, NULL, NULL);
    else
        http_transport_init_plain(&conn->transport, fd);
    conn->established = conn->transport.ops->handshake == NULL;
    if (addr->sa_family == AF_INET || addr->sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    format_peer(conn->peer, sizeof(conn->peer), addr);
    list_init(&conn->reqs);
    list_init(&conn->dirty_link);
    list_push_back(&server->conns, &conn->link);
    server->counters.connections++;
    server->counters.connections_total++;
    http_server_tick_start(server);
    http_conn_update_io(conn);
    return 0;
}

void http_conn_dirty(struct http_conn *conn)
{
    if (!list_empty(&conn->dirty_link))
        return;
    list_push_back(&conn->server->dirty, &conn->dirty_link);
    loop_hook_arm(conn->server->flush);
}

void http_conn_doom(struct http_conn *conn)
{
    conn->doomed = true;
    http_conn_dirty(conn);
}

void http_conn_finish(struct http_conn *conn)
{
    conn->finish = true;
    http_conn_dirty(conn);
}

void http_conn_destroy(struct http_conn *conn)
{
    struct http_server *server = conn->server;

    conn->doomed = true;
    while (!list_empty(&conn->reqs))
        http_req_close(LIST_ENTRY(conn->reqs.next, struct http_req, link));
    if (conn->proto != NULL)
        conn->proto->fini(conn);
    assert(list_empty(&conn->reqs));
    http_chunk_queue_free(&conn->spent);
    loop_io_free(conn->io);
    conn->transport.ops->close(&conn->transport);
    buf_fini(&conn->in);
    http_out_fini(&conn->out);
    list_remove(&conn->dirty_link);
    list_remove(&conn->link);
    free(conn);
    server->counters.connections--;
    http_server_conn_gone(server);
}

/* Made, but not taken by the kernel. */
static size_t conn_unsent(const struct http_conn *conn)
{
    return http_out_pending(&conn->out) + http_transport_pending(&conn->transport);
}

/* The peer does not read and we hold enough for it: then we do not read either. */
static bool output_stuck(const struct http_conn *conn)
{
    size_t pending = conn_unsent(conn);

    return pending != 0 && pending + conn->queued > conn->server->limits.output_bytes_max;
}

void http_conn_update_io(struct http_conn *conn)
{
    unsigned int events = 0;

    if (!conn->read_closed && (conn->lingering || (!conn->read_paused && !output_stuck(conn))))
        events |= LOOP_READ;
    if (conn_unsent(conn) != 0)
        events |= LOOP_WRITE;
    if (events == conn->io_events)
        return;
    conn->io_events = events;
    loop_io_set(conn->io, events);
}

static int conn_choose(struct http_conn *conn, const struct http_proto *proto)
{
    conn->proto = proto;
    return proto->start(conn);
}

/* First bytes. Consumes nothing until it is clear. What was agreed on in the handshake must then also
 * be spoken; it is not chosen there already, so that a client which says nothing is noticed. */
static int conn_detect(struct http_conn *conn, const uint8_t *data, size_t len)
{
    const char *alpn = conn->transport.ops->alpn(&conn->transport);
    size_t have, n;
    int r;

    buf_append(&conn->in, data, len);
    have = conn->in.len;
    n = MIN(have, HTTP_PREFACE_LEN);
    if (alpn != NULL && strcmp(alpn, "h2") != 0)
        n = 0;
    if (n == 0 || memcmp(conn->in.data, HTTP_PREFACE, n) != 0) {
        if (n != 0 && alpn != NULL)
            return -EPROTO;
        r = conn_choose(conn, &h1_proto);
    } else if (n == HTTP_PREFACE_LEN) {
        r = conn_choose(conn, &h2_proto);
    } else {
        return 0;
    }
    if (r == 0) {
        struct buf first = conn->in;

        conn->in = BUF_INIT;
        r = conn->proto->input(conn, first.data, first.len);
        if (conn->server->read_secret)
            buf_wipe(&first);
        buf_fini(&first);
    }
    return r;
}

static int conn_input(struct http_conn *conn, const uint8_t *data, size_t len)
{
    if (conn->lingering) {
        conn->linger_bytes += len;
        return conn->linger_bytes > HTTP_LINGER_BYTES_MAX ? -EPROTO : 0;
    }
    if (conn->finish)
        return 0; /* what comes after the last answer is of no interest */
    if (conn->proto == NULL)
        return conn_detect(conn, data, len);
    return conn->proto->input(conn, data, len);
}

/* The peer closed its side, or the connection broke. */
static void conn_eof(struct http_conn *conn)
{
    conn->read_closed = true;
    if (conn->proto == NULL || conn->lingering)
        http_conn_doom(conn);
    else
        conn->proto->eof(conn);
}

/* A step of a handshake costs as much as dozens of requests: many at once must not hold up the
 * connections that stand. Those over the turn's budget are still readable in the next one. */
static bool handshake_due(struct http_server *server)
{
    uint64_t turn = loop_turn_count(server->loop);

    if (server->handshake_turn != turn) {
        server->handshake_turn = turn;
        server->handshake_ns = 0;
    }
    return server->handshake_ns < HTTP_HANDSHAKE_TURN_NS;
}

static void conn_rejected(struct http_conn *conn, const char *why)
{
    struct http_server *server = conn->server;

    server->counters.handshake_errors++;
    if (server->handler->on_rejected != NULL)
        server->handler->on_rejected(server->user, conn->peer, why);
}

/* True: there may be input. */
static bool conn_handshake(struct http_conn *conn)
{
    uint64_t start_ns;
    int r;

    if (!handshake_due(conn->server))
        return false;
    start_ns = loop_clock_ns();
    r = conn->transport.ops->handshake(&conn->transport);
    conn->server->handshake_ns += loop_clock_ns() - start_ns;
    if (r == -EAGAIN)
        return false;
    if (r < 0) {
        const char *why = conn->transport.ops->error(&conn->transport);

        conn_rejected(conn, *why != '\0' ? why : strerror(-r));
        http_conn_doom(conn);
        return false;
    }
    conn->established = true;
    conn->server->counters.handshakes++;
    return true;
}

static void conn_read(struct http_conn *conn)
{
    struct http_server *server = conn->server;
    int r = 0;

    if (!conn->established && !conn_handshake(conn))
        return;
    for (int i = 0; i < HTTP_READS_PER_TURN; i++) {
        ssize_t n = conn->transport.ops->read(&conn->transport, server->read_buf, HTTP_READ_BYTES);

        if (n == -EAGAIN)
            break;
        if (n < 0) {
            http_conn_doom(conn);
            break;
        }
        if (n == 0) {
            conn_eof(conn);
            break;
        }
        server->counters.bytes_in += (uint64_t)n;
        conn->read_ms = loop_now_ms(server->loop);
        server->read_secret = false;
        r = conn_input(conn, server->read_buf, (size_t)n);
        if (server->read_secret)
            explicit_bzero(server->read_buf, (size_t)n);
        if (r < 0) {
            server->counters.protocol_errors++;
            if (conn->lingering)
                http_conn_doom(conn);
            else
                http_conn_finish(conn);
            break;
        }
        if (n < HTTP_READ_BYTES || conn->doomed || conn->read_paused)
            break;
    }
}

static void conn_on_io(void *user, unsigned int events)
{
    struct http_conn *conn = user;

    if ((events & LOOP_WRITE) != 0)
        http_conn_dirty(conn);
    if ((events & LOOP_READ) != 0 ||
        ((events & LOOP_HANGUP) != 0 && (conn->io_events & LOOP_READ) != 0))
        conn_read(conn);
    else if ((events & LOOP_HANGUP) != 0)
        http_conn_doom(conn); /* not reading: nobody is left to write to */
    if (conn->doomed)
        http_conn_destroy(conn);
    else
        http_conn_update_io(conn);
}

/* All output has left and no more may come. */
static void conn_finished(struct http_conn *conn)
{
    if (conn->read_closed) {
        conn->doomed = true;
        return;
    }
    /* Closing with unread input makes the kernel send a reset that can overtake the answer. */
    conn->lingering = true;
    conn->transport.ops->shutdown(&conn->transport);
    conn->deadline_ms = loop_now_ms(conn->server->loop) + HTTP_LINGER_MS;
}

static int conn_write(struct http_conn *conn, struct http_scratch *s)
{
    int r = http_out_write(&conn->out, &conn->transport, s, &conn->server->counters.bytes_out);

    http_chunk_queue_free(&conn->spent);
    return r;
}

static int conn_produce(struct http_conn *conn)
{
    struct http_scratch *s = &conn->server->scratch;
    size_t made = 0;
    bool more = true;
    int r = 0;

    if (http_transport_pending(&conn->transport) != 0) {
        r = conn->transport.ops->flush(&conn->transport);
        if (r < 0 || http_transport_pending(&conn->transport) != 0)
            return r; /* LOOP_WRITE brings us back */
    }
    while (more && r == 0) {
        /* first get rid of what the kernel did not take before */
        more = http_out_pending(&conn->out) >= HTTP_READ_BYTES;
        if (!more && conn->proto != NULL && conn->proto->produce != NULL)
            r = conn->proto->produce(conn, s, &more);
        made += s->len;
        if (r == 0)
            r = conn_write(conn, s);
        else
            conn_write(conn, s);
        if (conn_unsent(conn) != 0)
            break; /* LOOP_WRITE brings us back */
        if (more && made >= HTTP_WRITE_TURN_BYTES) {
            http_conn_dirty(conn);
            break;
        }
    }
    http_scratch_clear(s);
    return r;
}

void http_conn_flush(struct http_conn *conn)
{
    int r = 0;

    if (!conn->doomed && !conn->lingering) {
        r = conn_produce(conn);
        if (r == 0 && conn->proto != NULL && !conn->doomed && !conn->finish)
            r = conn->proto->flushed(conn);
        if (r < 0)
            conn->doomed = true;
        else if (conn->finish && !conn->lingering && conn_unsent(conn) == 0 &&
                 list_empty(&conn->dirty_link))
            conn_finished(conn);
    }
    if (conn->doomed)
        http_conn_destroy(conn);
    else
        http_conn_update_io(conn);
}

/* A buffered body that does not get on holds memory for nothing. */
static void conn_check_bodies(struct http_conn *conn, uint64_t now_ms)
{
    uint64_t body_ms_max = conn->server->limits.body_ms_max;

    if (body_ms_max == 0)
        return;
    LIST_FOREACH(it, &conn->reqs)
    {
        struct http_req *req = LIST_ENTRY(it, struct http_req, link);

        if (req->seen && req->mode == HTTP_BODY_BUFFER && !req->body_complete && !req->discard &&
            now_ms >= req->start_ms + body_ms_max) {
            conn->server->counters.timeouts++;
            http_req_reset(req, HTTP_RESET_CANCEL);
        }
    }
}

void http_conn_tick(struct http_conn *conn, uint64_t now_ms)
{
    if (conn->deadline_ms != 0 && now_ms >= conn->deadline_ms) {
        if (!conn->lingering)
            conn->server->counters.timeouts++;
        if (!conn->established)
            conn_rejected(conn, "TLS handshake timeout");
        conn->doomed = true;
    } else if (conn->proto != NULL && !conn->lingering) {
        conn_check_bodies(conn, now_ms);
        conn->proto->tick(conn, now_ms);
    }
    if (conn->doomed)
        http_conn_destroy(conn);
    else if (conn->transport.ops->rest != NULL && now_ms - conn->read_ms >= HTTP_REST_MS)
        conn->transport.ops->rest(&conn->transport);
}

void http_conn_drain(struct http_conn *conn)
{
    if (conn->draining)
        return;
    conn->draining = true;
    if (conn->proto == NULL)
        http_conn_doom(conn);
    else if (!conn->lingering)
        conn->proto->drain(conn);
}
