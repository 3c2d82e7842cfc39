/*
 * The relay's life and the sockets it listens on. Sockets are made on the caller's thread, so that
 * what is wrong with them is known at once, and handed over through a list under a lock.
 */
#include "raftd/peer/peer_tls_internal.h"

#include <assert.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/util/xmalloc.h"

enum { TICK_MS = 250, BACKLOG = 128, ACCEPTS_PER_TURN = 16 };

bool peer_tls_is_secure(const char *url)
{
    return strncmp(url, "https://", 8) == 0;
}

/* ---- the relay's thread ---- */

static void on_port(void *user, unsigned int events)
{
    struct peer_tls_port *port = user;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        struct sockaddr_storage from = {0};
        socklen_t len = sizeof(from);
        int fd = accept4(port->fd, (struct sockaddr *)&from, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0 && (errno == ECONNABORTED || errno == EINTR))
            continue;
        if (fd < 0 && errno != EAGAIN && errno != EWOULDBLOCK)
            loop_io_set(port->io, 0); /* out of descriptors: until the next tick */
        if (fd < 0)
            return;
        peer_tls_link_accept(port, fd, (const struct sockaddr *)&from);
    }
}

static void adopt_ports(struct peer_tls *t, bool accepting)
{
    struct list *node;

    pthread_mutex_lock(&t->lock);
    while ((node = list_pop_front(&t->fresh)) != NULL)
        list_push_back(&t->ports, node);
    pthread_mutex_unlock(&t->lock);
    LIST_FOREACH(it, &t->ports)
    {
        struct peer_tls_port *port = LIST_ENTRY(it, struct peer_tls_port, link);

        if (port->inbound && !accepting)
            continue;
        if (port->io == NULL)
            port->io = loop_io_new(t->loop, "peer tls port", port->fd, on_port, port);
        if (port->io != NULL)
            loop_io_set(port->io, LOOP_READ);
    }
}

static void on_wake(void *user)
{
    struct peer_tls *t = user;
    bool accepting, stopping;

    pthread_mutex_lock(&t->lock);
    accepting = t->accepting;
    stopping = t->stopping;
    pthread_mutex_unlock(&t->lock);
    if (stopping)
        loop_stop(t->loop);
    else
        adopt_ports(t, accepting);
}

static void on_tick(void *user)
{
    struct peer_tls *t = user;

    peer_tls_links_tick(t);
    on_wake(t); /* ports that ran out of descriptors try again */
}

static void port_free(struct peer_tls_port *port)
{
    if (port->io != NULL)
        loop_io_free(port->io);
    if (port->fd >= 0)
        close(port->fd);
    if (!port->inbound)
        unlink(port->local_path);
    url_fini(&port->url);
    free(port->local_path);
    list_remove(&port->link);
    free(port);
}

static void free_ports(struct list *ports)
{
    while (!list_empty(ports))
        port_free(LIST_ENTRY(ports->next, struct peer_tls_port, link));
}

static void *thread_main(void *arg)
{
    struct peer_tls *t = arg;

    loop_run(t->loop);
    peer_tls_links_free(t);
    free_ports(&t->ports);
    loop_timer_free(t->timer);
    return NULL;
}

/* ---- contexts ---- */

static void on_reload(void *user, const char *error)
{
    if (error != NULL)
        log_error("peer TLS files changed but cannot be used, the old ones stay: %s", error);
    else
        log_info("peer TLS files changed and were loaded");
}

static int make_contexts(struct peer_tls *t, const struct peer_tls_conf *c, char **ret_error)
{
    bool own = *c->client_cert_file != '\0';
    struct tls_args args = {
        .role = TLS_SERVER,
        .cert_file = c->cert_file,
        .key_file = c->key_file,
        .ca_file = c->ca_file,
        .require_cert = c->require_cert,
        .crl_file = c->crl_file,
        .allowed_cn = c->allowed_cn,
        .allowed_hostname = c->allowed_hostname,
        .cipher_suites = c->cipher_suites,
        .min_version = c->min_version,
        .max_version = c->max_version,
        .on_reload = on_reload,
    };
    int r = 0;

    if (*c->cert_file != '\0')
        r = tls_context_new(&args, &t->server, ret_error);
    if (r < 0)
        return r;
    args.role = TLS_CLIENT;
    args.cert_file = own ? c->client_cert_file : c->cert_file;
    args.key_file = own ? c->client_key_file : c->key_file;
    args.skip_verify = c->auto_tls;
    args.on_reload = own || t->server == NULL ? on_reload : NULL;
    return tls_context_new(&args, &t->client, ret_error);
}

/* ---- life, on the caller's thread ---- */

static int start_thread(struct peer_tls *t)
{
    sigset_t all, before;
    int r;

    sigfillset(&all); /* signals are for the main thread */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    r = pthread_create(&t->thread, NULL, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    t->thread_runs = r == 0;
    return -r;
}

int peer_tls_start(const struct peer_tls_conf *conf, const char *run_dir, struct peer_tls **ret,
                   char **ret_error)
{
    struct peer_tls *t = xcalloc(1, sizeof(*t));
    int r;

    pthread_mutex_init(&t->lock, NULL);
    list_init(&t->ports);
    list_init(&t->links);
    list_init(&t->fresh);
    t->run_dir = xstrdup(run_dir);
    t->skip_san = conf->skip_san;
    t->chunk = xmalloc(PEER_TLS_CHUNK_BYTES);
    r = make_contexts(t, conf, ret_error);
    if (r < 0)
        goto fail;
    r = -EMFILE;
    t->loop = loop_new();
    if (t->loop != NULL) {
        t->wake = loop_wake_new(t->loop, "peer tls", on_wake, t);
        t->timer = loop_timer_new(t->loop, "peer tls", on_tick, t);
        loop_timer_start(t->timer, TICK_MS, TICK_MS);
        r = start_thread(t);
    }
    if (r < 0) {
        *ret_error = xasprintf("cannot start the TLS relay: %s", strerror(-r));
        goto fail;
    }
    *ret = t;
    return 0;
fail:
    peer_tls_stop(t);
    return r;
}

void peer_tls_stop(struct peer_tls *t)
{
    if (t == NULL)
        return;
    if (t->thread_runs) {
        pthread_mutex_lock(&t->lock);
        t->stopping = true;
        pthread_mutex_unlock(&t->lock);
        loop_wake_send(t->wake);
        pthread_join(t->thread, NULL);
    } else if (t->timer != NULL) {
        loop_timer_free(t->timer);
    }
    free_ports(&t->fresh);
    if (t->wake != NULL)
        loop_wake_free(t->wake);
    if (t->loop != NULL)
        loop_free(t->loop); /* waits for lookups, whose links are gone */
    tls_context_free(t->server);
    tls_context_free(t->client);
    for (size_t i = 0; i < t->dialled_count; i++) {
        free(t->dialled[i].url);
        free(t->dialled[i].local_url);
    }
    free(t->dialled);
    free(t->run_dir);
    free(t->chunk);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void hand_over(struct peer_tls *t, struct peer_tls_port *port)
{
    port->t = t;
    pthread_mutex_lock(&t->lock);
    list_push_back(&t->fresh, &port->link);
    pthread_mutex_unlock(&t->lock);
    loop_wake_send(t->wake);
}

static int listen_far(const struct url *u, int *ret_fd)
{
    struct sockaddr_storage address;
    int r, fd;

    if (!peer_tls_parse_address(url_dial_host(u), u->port, &address))
        return -EINVAL;
    fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (address.ss_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY,
                   &(int){!IN6_IS_ADDR_UNSPECIFIED(&((struct sockaddr_in6 *)&address)->sin6_addr)},
                   sizeof(int));
    if (bind(fd, (const struct sockaddr *)&address, peer_tls_address_len(&address)) != 0 ||
        listen(fd, BACKLOG) != 0) {
        r = -errno;
        close(fd);
        return r;
    }
    *ret_fd = fd;
    return 0;
}

static int listen_local(const char *path, int *ret_fd)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, r = 0;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    unlink(path); /* left by a predecessor that was killed */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
        chmod(path, 0600) != 0 || listen(fd, BACKLOG) != 0)
        r = -errno;
    if (r < 0)
        close(fd);
    else
        *ret_fd = fd;
    return r;
}

char *peer_tls_listen(struct peer_tls *t, const char *text, char **ret_error)
{
    struct peer_tls_port *port;
    struct url url;
    int fd = -1, r;

    if (t->server == NULL) {
        *ret_error = xasprintf("cannot listen on %s: KeyFile and CertFile are not presented", text);
        return NULL;
    }
    if (url_parse(bytes_str(text), &url, ret_error) < 0)
        return NULL;
    r = listen_far(&url, &fd);
    if (r < 0) {
        *ret_error = xasprintf("cannot listen on %s: %s", text, strerror(-r));
        url_fini(&url);
        return NULL;
    }
    port = xcalloc(1, sizeof(*port));
    port->inbound = true;
    port->fd = fd;
    port->url = url;
    port->local_path = xasprintf("%s/raftd.peer%u", t->run_dir, t->port_count++);
    text = port->local_path;
    hand_over(t, port);
    return xasprintf("ipc://%s", text);
}

void peer_tls_accept(struct peer_tls *t)
{
    pthread_mutex_lock(&t->lock);
    t->accepting = true;
    pthread_mutex_unlock(&t->lock);
    loop_wake_send(t->wake);
}

char *peer_tls_dial(struct peer_tls *t, const char *text)
{
    CLEANUP(freep) char *error = NULL;
    struct peer_tls_port *port;
    struct url url;
    char *path;
    int fd = -1, r;

    for (size_t i = 0; i < t->dialled_count; i++) {
        if (strcmp(t->dialled[i].url, text) == 0)
            return xstrdup(t->dialled[i].local_url);
    }
    if (url_parse(bytes_str(text), &url, &error) < 0)
        return NULL;
    path = xasprintf("%s/raftd.dial%u", t->run_dir, t->port_count++);
    r = listen_local(path, &fd);
    if (r < 0) {
        log_error("cannot make %s: %s", path, strerror(-r));
        url_fini(&url);
        free(path);
        return NULL;
    }
    t->dialled = xreallocarray(t->dialled, t->dialled_count + 1, sizeof(*t->dialled));
    t->dialled[t->dialled_count].url = xstrdup(text);
    t->dialled[t->dialled_count++].local_url = xasprintf("ipc://%s", path);
    port = xcalloc(1, sizeof(*port));
    port->fd = fd;
    port->url = url;
    port->local_path = path;
    hand_over(t, port);
    return xstrdup(t->dialled[t->dialled_count - 1].local_url);
}

void peer_tls_get_stats(struct peer_tls *t, struct peer_tls_stats *ret)
{
    *ret = (struct peer_tls_stats){.handshakes = atomic_load(&t->handshakes),
                                   .failures = atomic_load(&t->failures),
                                   .connections = atomic_load(&t->connections)};
}
