/*
 * One connection through the relay: a TLS socket and a local one.
 *
 *   outbound:  [paced: the last handshake failed] -> resolving -> connecting -> handshake -> relaying
 *   inbound:   handshake -> [names: the certificate's against the address] -> greeting -> relaying
 *
 * greeting: an inbound connection is handed to nng only when it begins as nng's push sockets do, so
 * what is no member's never becomes a connection of nng's.
 *
 * In each direction at most one chunk is under way; the next is read when the one before has left.
 * When one side ends, the other is told so behind the last byte, and has a while to end too.
 *
 * nng before 1.6 stops dialling (or listening) for good when a connection is closed while it is made
 * (nng's issue 1518); an end of input at that time does no harm. So nng's side is told that there will
 * be no more, and it is nng that closes first.
 */
#include "raftd/peer/peer_tls_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/util/xmalloc.h"

enum link_state {
    PACED,
    RESOLVING,
    CONNECTING,
    HANDSHAKE,
    NAMES,
    GREETING,
    RELAYING,
    WAITING_FOR_NNG,
};

/* SP, version 0, push (0x50): the first bytes of every connection between members. */
static const uint8_t greeting[8] = {0, 'S', 'P', 0, 0, 0x50, 0, 0};

struct peer_tls_link {
    struct list link;
    struct peer_tls *t;
    struct peer_tls_port *port;
    enum link_state state;
    int far_fd, local_fd; /* -1: none */
    struct loop_io *far_io, *local_io;
    unsigned int far_events, local_events;
    struct tls_stream *tls;
    struct buf to_local; /* from to_local_at; while there is some, nothing is read from afar */
    size_t to_local_at;
    bool stranger; /* counted as one */
    bool far_eof, local_eof, far_shut, local_shut;
    bool far_heard, dead;
    uint64_t deadline_ms; /* 0: none */
    struct sockaddr_storage from;
    struct sockaddr_storage addresses[PEER_TLS_ADDRESSES_MAX];
    size_t address_count, address_at;
    struct peer_tls_lookup *lookup;
};

static void on_far_io(void *user, unsigned int events);
static void on_local_io(void *user, unsigned int events);

/* ---- life ---- */

static void set_deadline(struct peer_tls_link *l, uint64_t ms)
{
    l->deadline_ms = ms == 0 ? 0 : loop_now_ms(l->t->loop) + ms;
}

static void no_stranger(struct peer_tls_link *l)
{
    if (l->stranger)
        l->t->stranger_count--;
    l->stranger = false;
}

static void close_far(struct peer_tls_link *l)
{
    if (l->far_io != NULL)
        loop_io_free(l->far_io);
    l->far_io = NULL;
    l->far_events = 0;
    if (l->tls != NULL) {
        tls_stream_shutdown(l->tls);
        tls_stream_free(l->tls);
    }
    l->tls = NULL;
    if (l->far_fd >= 0)
        close(l->far_fd);
    l->far_fd = -1;
}

static void link_free(struct peer_tls_link *l)
{
    peer_tls_lookup_forget(l->lookup);
    no_stranger(l);
    close_far(l);
    if (l->local_io != NULL)
        loop_io_free(l->local_io);
    if (l->local_fd >= 0)
        close(l->local_fd);
    buf_fini(&l->to_local);
    list_remove(&l->link);
    l->t->link_count--;
    atomic_store(&l->t->connections, l->t->link_count);
    free(l);
}

static void set_io(struct loop_io *io, unsigned int *now, unsigned int want)
{
    if (io == NULL || *now == want)
        return;
    *now = want;
    loop_io_set(io, want);
}

/* The end of a link, at the top of its own stack: now, or when nng has closed. */
static void link_end(struct peer_tls_link *l)
{
    if (l->local_fd < 0 || l->local_io == NULL || l->local_eof || l->state == WAITING_FOR_NNG) {
        link_free(l);
        return;
    }
    peer_tls_lookup_forget(TAKE(l->lookup));
    no_stranger(l);
    close_far(l);
    l->state = WAITING_FOR_NNG;
    l->dead = false;
    l->to_local_at = l->to_local.len;
    shutdown(l->local_fd, SHUT_WR);
    set_io(l->local_io, &l->local_events, LOOP_READ);
    set_deadline(l, PEER_TLS_LINGER_MS);
}

/* What nng still says is for nobody. */
static void await_nng(struct peer_tls_link *l)
{
    ssize_t n = recv(l->local_fd, l->t->chunk, PEER_TLS_CHUNK_BYTES, 0);

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
        link_free(l);
}

static void link_update(struct peer_tls_link *l)
{
    unsigned int far = 0, local = 0;

    if (l->dead) {
        link_end(l);
        return;
    }
    switch (l->state) {
    case PACED:
    case RESOLVING:
    case NAMES:
        break;
    case CONNECTING:
        far = LOOP_WRITE;
        break;
    case HANDSHAKE:
    case GREETING:
        far = LOOP_READ;
        break;
    case RELAYING:
        if (!l->far_eof && l->to_local_at == l->to_local.len)
            far = LOOP_READ;
        if (!l->local_eof && tls_stream_pending(l->tls) == 0)
            local = LOOP_READ;
        if (l->to_local_at < l->to_local.len)
            local |= LOOP_WRITE;
        break;
    case WAITING_FOR_NNG:
        local = LOOP_READ;
        break;
    }
    if (l->tls != NULL && tls_stream_pending(l->tls) > 0)
        far |= LOOP_WRITE;
    set_io(l->far_io, &l->far_events, far);
    set_io(l->local_io, &l->local_events, local);
}

static void link_fail(struct peer_tls_link *l, const char *why)
{
    struct peer_tls *t = l->t;
    uint64_t now_ms = loop_now_ms(t->loop);
    char from[INET6_ADDRSTRLEN];

    l->dead = true;
    atomic_fetch_add(&t->failures, 1);
    if (!l->port->inbound) {
        if (l->tls != NULL) /* wrong certificates do not become right by asking at once */
            l->port->retry_ms = now_ms + PEER_TLS_RETRY_MS;
        if (!l->port->failing)
            log_warn("no TLS connection to %s: %s", l->port->url.text, why);
        l->port->failing = true;
        return;
    }
    if (now_ms < t->rejected_log_ms) {
        t->rejected_unlogged++;
        return;
    }
    t->rejected_log_ms = now_ms + 1000;
    peer_tls_format_address(&l->from, from, sizeof(from));
    log_warn("rejected a member's connection from %s: %s (%" PRIu64 " others before)", from, why,
             t->rejected_unlogged);
    t->rejected_unlogged = 0;
}

/* ---- relaying ---- */

/* What the local socket does not take is kept. */
static int push_local(struct peer_tls_link *l, const void *data, size_t len)
{
    ssize_t n;

    do
        n = send(l->local_fd, data, len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
        return -errno;
    if (n < 0)
        n = 0;
    if ((size_t)n < len)
        buf_append(&l->to_local, (const uint8_t *)data + n, len - (size_t)n);
    return 0;
}

static int flush_local(struct peer_tls_link *l)
{
    size_t len = l->to_local.len - l->to_local_at;
    ssize_t n;

    if (len == 0)
        return 0;
    do
        n = send(l->local_fd, l->to_local.data + l->to_local_at, len, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
    l->to_local_at += (size_t)n;
    if (l->to_local_at == l->to_local.len) {
        buf_fini(&l->to_local);
        l->to_local_at = 0;
    }
    return 0;
}

static void heard_far(struct peer_tls_link *l)
{
    if (l->far_heard)
        return;
    l->far_heard = true;
    if (l->port->failing)
        log_info("TLS connection to %s", l->port->url.text);
    l->port->failing = false;
}

static void pump_in(struct peer_tls_link *l)
{
    for (int i = 0; i < PEER_TLS_ROUNDS_MAX && l->to_local_at == l->to_local.len; i++) {
        ssize_t n = tls_stream_read(l->tls, l->t->chunk, PEER_TLS_CHUNK_BYTES);

        if (n == -EAGAIN)
            return;
        if (n <= 0 && !l->far_heard && !l->port->inbound) {
            /* a server that wants none of our certificate says so only now (RFC 8446 appendix E.1.2) */
            link_fail(l, *tls_stream_error(l->tls) != '\0' ? tls_stream_error(l->tls) : "closed");
            return;
        }
        if (n < 0 || (n > 0 && push_local(l, l->t->chunk, (size_t)n) < 0)) {
            l->dead = true;
            return;
        }
        if (n == 0) {
            l->far_eof = true;
            return;
        }
        heard_far(l);
        if (n < PEER_TLS_CHUNK_BYTES / 4)
            return; /* that was all, or nearly; more makes the socket readable again */
    }
}

static void pump_out(struct peer_tls_link *l)
{
    for (int i = 0; i < PEER_TLS_ROUNDS_MAX && tls_stream_pending(l->tls) == 0; i++) {
        ssize_t n = recv(l->local_fd, l->t->chunk, PEER_TLS_CHUNK_BYTES, 0);
        struct iovec iov = {.iov_base = l->t->chunk, .iov_len = n > 0 ? (size_t)n : 0};

        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            return;
        if (n <= 0)
            l->local_eof = true;
        if (n < 0 || (n > 0 && tls_stream_writev(l->tls, &iov, 1) < 0))
            l->dead = true;
        if (l->dead || n == 0)
            return;
        if (n < PEER_TLS_CHUNK_BYTES)
            return; /* that was all; more makes the socket readable again */
    }
}

/* An end is passed on behind the last byte. */
static void pass_ends(struct peer_tls_link *l)
{
    if ((l->far_eof || l->local_eof) && l->deadline_ms == 0)
        set_deadline(l, PEER_TLS_LINGER_MS);
    if (l->far_eof && !l->local_shut && l->to_local_at == l->to_local.len) {
        l->local_shut = true;
        shutdown(l->local_fd, SHUT_WR);
    }
    if (l->local_eof && !l->far_shut && tls_stream_pending(l->tls) == 0) {
        tls_stream_shutdown(l->tls);
        if (tls_stream_pending(l->tls) == 0) {
            l->far_shut = true;
            shutdown(l->far_fd, SHUT_WR);
        }
    }
    if (l->far_shut && l->local_shut)
        l->dead = true;
}

static void relay(struct peer_tls_link *l, bool in, bool out)
{
    if (in && !l->dead && !l->far_eof)
        pump_in(l);
    if (out && !l->dead && !l->local_eof)
        pump_out(l);
    if (!l->dead)
        pass_ends(l);
}

static void begin_relaying(struct peer_tls_link *l)
{
    l->state = RELAYING;
    set_deadline(l, 0);
    relay(l, true, true);
}

/* ---- inbound ---- */

static int connect_local(struct peer_tls_link *l)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};

    if (strlen(l->port->local_path) >= sizeof(to.sun_path))
        return -ENAMETOOLONG;
    strcpy(to.sun_path, l->port->local_path);
    l->local_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->local_fd < 0)
        return -errno;
    if (connect(l->local_fd, (const struct sockaddr *)&to, sizeof(to)) != 0) {
        int r = -errno;

        close(l->local_fd);
        l->local_fd = -1;
        return r;
    }
    l->local_io = loop_io_new(l->t->loop, "peer tls local", l->local_fd, on_local_io, l);
    return l->local_io != NULL ? 0 : -ENOMEM;
}

static void on_greeting(struct peer_tls_link *l)
{
    ssize_t n = tls_stream_read(l->tls, l->t->chunk, PEER_TLS_CHUNK_BYTES);
    size_t len;
    int r;

    if (n == -EAGAIN)
        return;
    if (n <= 0) {
        l->dead = true; /* a health check, or a member that thought better of it */
        return;
    }
    buf_append(&l->to_local, l->t->chunk, (size_t)n);
    len = MIN(l->to_local.len, sizeof(greeting));
    if (memcmp(l->to_local.data, greeting, len) != 0) {
        link_fail(l, "not a member's greeting");
        return;
    }
    if (len < sizeof(greeting))
        return;
    r = connect_local(l);
    if (r == 0)
        r = flush_local(l);
    if (r < 0) {
        link_fail(l, strerror(-r));
        return;
    }
    no_stranger(l);
    begin_relaying(l);
}

static void await_greeting(struct peer_tls_link *l)
{
    l->state = GREETING;
    on_greeting(l);
}

struct name_list {
    const struct sockaddr_storage *from;
    char *dns[PEER_TLS_NAMES_MAX];
    size_t dns_count;
    bool has_address, address_matches;
};

static void on_name(void *user, const char *name, bool is_address)
{
    struct name_list *n = user;
    char from[INET6_ADDRSTRLEN];

    if (is_address) {
        peer_tls_format_address(n->from, from, sizeof(from));
        n->has_address = true;
        n->address_matches = n->address_matches || strcmp(from, name) == 0;
    } else if (n->dns_count < PEER_TLS_NAMES_MAX) {
        n->dns[n->dns_count++] = xstrdup(name);
    }
}

/* etcd's rule for members' certificates: one that has addresses or names must be used from there. */
static void check_names(struct peer_tls_link *l)
{
    struct name_list names = {.from = &l->from};

    if (!l->t->skip_san)
        tls_stream_peer_names(l->tls, on_name, &names);
    if (names.address_matches || (!names.has_address && names.dns_count == 0)) {
        await_greeting(l);
    } else if (names.dns_count > 0) {
        l->state = NAMES;
        l->lookup = peer_tls_lookup_names(l->t, l, names.dns, names.dns_count, &l->from);
    } else {
        link_fail(l, "the certificate is for other addresses");
    }
    for (size_t i = 0; i < names.dns_count; i++)
        free(names.dns[i]);
}

void peer_tls_link_on_names(struct peer_tls_link *l, bool matches)
{
    l->lookup = NULL;
    if (matches)
        await_greeting(l);
    else
        link_fail(l, "none of the certificate's names resolves to that address");
    link_update(l);
}

/* ---- outbound ---- */

static void try_connect(struct peer_tls_link *l);

static void on_connected(struct peer_tls_link *l)
{
    int error = 0;
    socklen_t len = sizeof(error);

    if (getsockopt(l->far_fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
        error = errno;
    if (error != 0 && l->address_at < l->address_count) {
        close_far(l);
        try_connect(l);
        return;
    }
    if (error != 0) {
        link_fail(l, strerror(error));
        return;
    }
    l->state = HANDSHAKE;
    l->tls = tls_stream_new(l->t->client, l->far_fd, l->port->url.host, NULL);
}

static void set_socket_options(int fd)
{
    /* a host that is gone without a word is noticed in half a minute */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &(int){1}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &(int){10}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &(int){5}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &(int){4}, sizeof(int));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned int){30000}, sizeof(unsigned int));
}

static void try_connect(struct peer_tls_link *l)
{
    int error = EHOSTUNREACH;

    while (l->address_at < l->address_count) {
        const struct sockaddr_storage *to = &l->addresses[l->address_at++];

        l->far_fd = socket(to->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (l->far_fd < 0) {
            error = errno;
            continue;
        }
        set_socket_options(l->far_fd);
        if (connect(l->far_fd, (const struct sockaddr *)to, peer_tls_address_len(to)) == 0 ||
            errno == EINPROGRESS) {
            l->state = CONNECTING;
            l->far_io = loop_io_new(l->t->loop, "peer tls", l->far_fd, on_far_io, l);
            if (l->far_io != NULL)
                return;
            errno = ENOMEM;
        }
        error = errno;
        close_far(l);
    }
    link_fail(l, strerror(error));
}

void peer_tls_link_on_addresses(struct peer_tls_link *l, const struct sockaddr_storage *addresses,
                                size_t count)
{
    l->lookup = NULL;
    memcpy(l->addresses, addresses, count * sizeof(*addresses));
    l->address_count = count;
    if (count == 0)
        link_fail(l, "no such host");
    else
        try_connect(l);
    link_update(l);
}

static void find_addresses(struct peer_tls_link *l)
{
    const struct url *u = &l->port->url;

    if (peer_tls_parse_address(url_dial_host(u), u->port, &l->addresses[0])) {
        l->address_count = 1;
        try_connect(l);
    } else {
        l->state = RESOLVING;
        l->lookup = peer_tls_lookup_addresses(l->t, l, u->host, u->port);
    }
}

/* ---- events ---- */

/* Whoever called and is over the turn's budget is still readable in the next one. */
static bool handshake_due(struct peer_tls *t)
{
    uint64_t turn = loop_turn_count(t->loop);

    if (t->handshake_turn != turn) {
        t->handshake_turn = turn;
        t->handshake_ns = 0;
    }
    return t->handshake_ns < PEER_TLS_TURN_NS;
}

static void on_handshake(struct peer_tls_link *l)
{
    uint64_t start_ns = loop_clock_ns();
    int r;

    if (l->port->inbound && !handshake_due(l->t))
        return;
    r = tls_stream_handshake(l->tls);
    l->t->handshake_ns += loop_clock_ns() - start_ns;
    if (r == -EAGAIN)
        return;
    if (r < 0) {
        const char *why = tls_stream_error(l->tls);

        link_fail(l, *why != '\0' ? why : strerror(-r));
        return;
    }
    atomic_fetch_add(&l->t->handshakes, 1);
    if (l->port->inbound)
        check_names(l);
    else
        begin_relaying(l);
}

static void on_far_io(void *user, unsigned int events)
{
    struct peer_tls_link *l = user;

    if ((events & LOOP_WRITE) != 0 && l->tls != NULL && tls_stream_flush(l->tls) < 0)
        l->dead = true;
    if (!l->dead && l->state == CONNECTING)
        on_connected(l);
    if (!l->dead && l->state == HANDSHAKE)
        on_handshake(l);
    else if (!l->dead && l->state == GREETING)
        on_greeting(l);
    else if (!l->dead && l->state == RELAYING)
        relay(l, (events & (LOOP_READ | LOOP_HANGUP)) != 0 && l->to_local_at == l->to_local.len,
              false);
    else if ((events & LOOP_HANGUP) != 0 && l->state == NAMES)
        l->dead = true;
    if (l->state == RELAYING && (events & LOOP_HANGUP) != 0 && (l->far_events & LOOP_READ) == 0 &&
        l->far_eof)
        l->dead = true;
    link_update(l);
}

static void on_local_io(void *user, unsigned int events)
{
    struct peer_tls_link *l = user;

    if (l->state == WAITING_FOR_NNG) {
        await_nng(l);
        return;
    }
    if ((events & LOOP_WRITE) != 0 && flush_local(l) < 0)
        l->dead = true;
    if (l->state != RELAYING) {
        if ((events & LOOP_HANGUP) != 0)
            l->dead = l->local_eof = true; /* nng gave up itself */
    } else if (!l->dead) {
        relay(l, false,
              (events & (LOOP_READ | LOOP_HANGUP)) != 0 && tls_stream_pending(l->tls) == 0);
        if ((events & LOOP_HANGUP) != 0 && l->local_eof && l->far_eof)
            l->dead = true;
    }
    link_update(l);
}

/* The oldest that nothing is known of makes room: a flood cannot keep members out for longer than it
 * takes them to shake hands. */
static void drop_oldest_stranger(struct peer_tls *t)
{
    LIST_FOREACH(it, &t->links)
    {
        struct peer_tls_link *l = LIST_ENTRY(it, struct peer_tls_link, link);

        if (l->stranger) {
            link_free(l);
            return;
        }
    }
}

void peer_tls_link_accept(struct peer_tls_port *port, int fd, const struct sockaddr *from)
{
    struct peer_tls *t = port->t;
    struct peer_tls_link *l;

    if (port->inbound && t->stranger_count >= PEER_TLS_STRANGERS_MAX)
        drop_oldest_stranger(t);
    if (t->link_count >= PEER_TLS_LINKS_MAX) {
        close(fd);
        return;
    }
    l = xcalloc(1, sizeof(*l));
    l->t = t;
    l->port = port;
    l->far_fd = l->local_fd = -1;
    list_push_back(&t->links, &l->link);
    t->link_count++;
    atomic_store(&t->connections, t->link_count);
    set_deadline(l, PEER_TLS_TIMEOUT_MS);
    if (port->inbound) {
        l->far_fd = fd;
        l->far_io = loop_io_new(t->loop, "peer tls", fd, on_far_io, l);
        set_socket_options(fd);
        memcpy(&l->from, from,
               from->sa_family == AF_INET ? sizeof(struct sockaddr_in)
                                          : sizeof(struct sockaddr_in6));
        l->stranger = true;
        t->stranger_count++;
        l->state = HANDSHAKE;
        l->tls = tls_stream_new(t->server, fd, NULL, NULL);
        l->dead = l->far_io == NULL;
    } else {
        l->local_fd = fd;
        l->local_io = loop_io_new(t->loop, "peer tls local", fd, on_local_io, l);
        if (l->local_io != NULL && loop_now_ms(t->loop) < port->retry_ms)
            l->state = PACED;
        else if (l->local_io != NULL)
            find_addresses(l);
        else
            l->dead = true;
    }
    link_update(l);
}

static const char *what_took_long(enum link_state state)
{
    switch (state) {
    case PACED:
    case RESOLVING:
        return "the name was not resolved in time";
    case CONNECTING:
        return "connection timed out";
    case HANDSHAKE:
        return "TLS handshake timeout";
    case NAMES:
        return "the certificate's names were not resolved in time";
    case GREETING:
        return "no greeting";
    default:
        return "";
    }
}

void peer_tls_links_tick(struct peer_tls *t)
{
    uint64_t now_ms = loop_now_ms(t->loop);

    LIST_FOREACH_SAFE(it, next, &t->links)
    {
        struct peer_tls_link *l = LIST_ENTRY(it, struct peer_tls_link, link);

        if (l->state == PACED && now_ms >= l->port->retry_ms) {
            find_addresses(l);
            link_update(l);
            continue;
        }
        if (l->deadline_ms == 0 || now_ms < l->deadline_ms)
            continue;
        if (l->state == RELAYING || l->state == WAITING_FOR_NNG) {
            link_free(l); /* the other side did not end */
            continue;
        }
        link_fail(l, what_took_long(l->state));
        link_update(l);
    }
}

void peer_tls_links_free(struct peer_tls *t)
{
    while (!list_empty(&t->links))
        link_free(LIST_ENTRY(t->links.next, struct peer_tls_link, link));
}
