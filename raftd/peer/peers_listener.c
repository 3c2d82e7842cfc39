/*
 * Where the other members dial us.
 *
 * Silenced: nng before 1.6 takes a connection that ends with EPIPE while it is made for the end of
 * its own dialer or listener, which then does nothing any more (nng's issue 1518). So a lane that
 * stays down gets a new dialer. A listener in that state still greets, so its callers believe to be
 * connected and are never heard. So when a peer that we reach does not reach us, we dial our own
 * listeners, and the one that gives us no connection is replaced.
 */
#include <errno.h>
#include <nng/nng.h>
#include <nng/protocol/pipeline0/push.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/peer/peers_internal.h"

enum { PROBE_MS = 1000 };

/* Where nng listens for one of our URLs. NULL: *ret_error says why. */
static char *listen_url(struct peers *p, const char *text, char **ret_error)
{
    char *url;

    if (peer_tls_is_secure(text))
        return peers_need_tls(p, ret_error) == 0 ? peer_tls_listen(p->tls, text, ret_error) : NULL;
    url = peer_nng_url(text);
    if (url == NULL)
        *ret_error = xasprintf("cannot listen on %s: scheme not supported for peers", text);
    return url;
}

static int listener_open(struct peers *p, struct listener *l)
{
    nng_listener id;
    int rv = nng_listen(p->pull, l->url, &id, 0);

    if (rv == 0 && l->relayed)
        chmod(l->url + strlen("ipc://"), 0600);
    pthread_mutex_lock(&p->lock);
    l->id = rv == 0 ? id.id : 0;
    pthread_mutex_unlock(&p->lock);
    return rv;
}

static void run_renew_listener(struct errand *e)
{
    struct peers *p = e->peers;
    struct listener *l = e->listener;
    uint32_t old;

    pthread_mutex_lock(&p->lock);
    old = l->id;
    pthread_mutex_unlock(&p->lock);
    nng_listener_close((nng_listener){.id = old});
    listener_open(p, l); /* without success, the next check tries again */
    pthread_mutex_lock(&p->lock);
    l->renewing = false;
    pthread_mutex_unlock(&p->lock);
}

static void renew_listener(struct peers *p, struct listener *l)
{
    bool busy;

    pthread_mutex_lock(&p->lock);
    busy = l->renewing;
    l->renewing = true;
    pthread_mutex_unlock(&p->lock);
    if (busy)
        return;
    log_warn("the listener on %s does not answer, a new one takes its place", l->url);
    peers_run_apart(&(struct errand){.peers = p, .run = run_renew_listener, .listener = l});
}

static void end_probe(struct peers *p, struct listener *l)
{
    if (!l->probing)
        return;
    l->probing = false;
    peers_run_apart(&(struct errand){.peers = p, .run = peers_run_close_socket, .sock = l->probe});
}

void peers_probe_listeners(struct peers *p)
{
    p->last_probe_ms = loop_now_ms(p->loop);
    for (size_t i = 0; i < p->listener_count; i++) {
        struct listener *l = &p->listeners[i];

        if (l->probing || nng_push0_open(&l->probe) != 0)
            continue;
        l->probing = true;
        nng_dial(l->probe, l->url, NULL, NNG_FLAG_NONBLOCK);
    }
    loop_timer_start(p->probe_end, PROBE_MS, 0);
}

void peers_on_probe_end(void *user)
{
    struct peers *p = user;

    for (size_t i = 0; i < p->listener_count; i++) {
        struct listener *l = &p->listeners[i];

        if (l->probing)
            renew_listener(p, l);
        end_probe(p, l);
    }
}

void peers_listeners_end_probes(struct peers *p)
{
    for (size_t i = 0; i < p->listener_count; i++)
        end_probe(p, &p->listeners[i]);
}

void peers_listener_answered(struct peers *p, uint32_t listener)
{
    for (size_t i = 0; i < p->listener_count; i++) {
        struct listener *l = &p->listeners[i];
        uint32_t id;

        pthread_mutex_lock(&p->lock);
        id = l->id;
        pthread_mutex_unlock(&p->lock);
        if (id == listener)
            end_probe(p, l);
    }
}

int peers_listeners_open(struct peers *p, const struct url_list *urls, char **ret_error)
{
    p->listeners = xcalloc(MAX(urls->count, (size_t)1), sizeof(*p->listeners));
    for (size_t i = 0; i < urls->count; i++) {
        struct listener *l = &p->listeners[p->listener_count];
        int rv;

        *l = (struct listener){.url = listen_url(p, urls->items[i], ret_error),
                               .relayed = peer_tls_is_secure(urls->items[i])};
        if (l->url == NULL)
            return -EPROTONOSUPPORT;
        p->listener_count++;
        rv = listener_open(p, l);
        if (rv != 0) {
            *ret_error = xasprintf("cannot listen on %s: %s", urls->items[i], nng_strerror(rv));
            return peers_nng_errno(rv);
        }
    }
    return 0;
}

void peers_listeners_free(struct peers *p)
{
    for (size_t i = 0; i < p->listener_count; i++)
        free(p->listeners[i].url);
    free(p->listeners);
}
