/*
 * Peer transport over nng push and pull sockets: its life, and who the peers are. The connections
 * themselves are in the files that peers_internal.h names.
 */
#include "raftd/peer/peers.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"
#include "raftd/peer/peers_internal.h"

enum {
    CHECK_MS = 500,
    STUCK_MS = 30000, /* a long batch over a slow line is no reason */
    ROUND_TRIP_FIRST_NS = 100000, /* etcd's buckets: 0.0001 s, 16 of them */
    ROUND_TRIP_BUCKETS = 16,
};

int peers_nng_errno(int rv)
{
    switch (rv) {
    case NNG_EADDRINUSE:
        return -EADDRINUSE;
    case NNG_EADDRINVAL:
        return -EADDRNOTAVAIL;
    case NNG_EPERM:
        return -EACCES;
    case NNG_ENOMEM:
        return -ENOMEM;
    case NNG_ENOFILES:
        return -EMFILE;
    case NNG_ENOTSUP:
        return -EPROTONOSUPPORT;
    default:
        return -EIO;
    }
}

struct peer *peers_find(const struct peers *p, uint64_t id)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->list[i]->id == id)
            return p->list[i];
    }
    return NULL;
}

int peers_need_tls(struct peers *p, char **ret_error)
{
    if (p->tls != NULL)
        return 0;
    if (p->tls_conf == NULL) {
        *ret_error = xstrdup("no TLS");
        return -EPROTONOSUPPORT;
    }
    return peer_tls_start(p->tls_conf, p->run_dir, &p->tls, ret_error);
}

static void peer_close(struct peer *peer)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++)
        peers_lane_close(&peer->lanes[k]);
    url_list_fini(&peer->urls);
    free(peer);
}

int peers_set(struct peers *p, uint64_t id, const struct url_list *urls)
{
    struct peer *peer = peers_find(p, id);
    int r = 0;

    assert(id != 0);
    if (urls->count == 0)
        return -EINVAL;
    if (peer != NULL) {
        if (url_list_eq(&peer->urls, urls))
            return 0;
        peers_remove(p, id);
    }
    if (p->count == PEERS_MAX)
        return -ENOSPC;
    peer = xcalloc(1, sizeof(*peer));
    peer->id = id;
    peer->stats.round_trips.first_ns = ROUND_TRIP_FIRST_NS;
    peer->stats.round_trips.buckets = ROUND_TRIP_BUCKETS;
    for (size_t i = 0; i < urls->count; i++)
        url_list_add(&peer->urls, bytes_str(urls->items[i]));
    p->list[p->count++] = peer;
    for (int k = 0; k < PEER_LANE_COUNT && r == 0; k++)
        r = peers_lane_open(p, peer, (enum peer_lane)k);
    if (r != 0)
        peers_remove(p, id);
    return r;
}

void peers_remove(struct peers *p, uint64_t id)
{
    for (size_t i = 0; i < p->count; i++) {
        if (p->list[i]->id == id) {
            bool was_up = p->list[i]->stats.up;

            peer_close(p->list[i]);
            p->list[i] = p->list[--p->count];
            if (was_up)
                p->ops->on_down(p->user, id);
            return;
        }
    }
}

bool peers_has(const struct peers *p, uint64_t id)
{
    return peers_find(p, id) != NULL;
}

bool peers_is_up(const struct peers *p, uint64_t id)
{
    const struct peer *peer = peers_find(p, id);

    return peer != NULL && peer->stats.up;
}

bool peers_get_stats(const struct peers *p, uint64_t id, struct peer_stats *ret)
{
    const struct peer *peer = peers_find(p, id);

    if (peer != NULL)
        *ret = peer->stats;
    return peer != NULL;
}

void peers_get_totals(const struct peers *p, struct peers_totals *ret)
{
    *ret = p->totals;
    if (p->tls != NULL)
        peer_tls_get_stats(p->tls, &ret->tls);
}

void peers_set_identity(struct peers *p, uint64_t cluster_id, uint64_t member_id)
{
    p->self.cluster_id = cluster_id;
    p->self.from = member_id;
    for (size_t i = 0; i < p->count; i++) {
        for (int k = 0; k < PEER_LANE_COUNT; k++) {
            struct lane *lane = &p->list[i]->lanes[k];

            if (lane->up) /* what is queued bears the old identity */
                peers_lane_greet(p, lane);
        }
    }
}

static int listen_all(struct peers *p, const struct url_list *urls, char **ret_error)
{
    int r = peers_inbox_open(p, ret_error);

    if (r == 0)
        r = peers_listeners_open(p, urls, ret_error);
    if (r != 0)
        return r;
    if (p->tls != NULL)
        peer_tls_accept(p->tls);
    peers_inbox_start(p);
    return 0;
}

int peers_start(const struct peers_args *args, struct peers **ret, char **ret_error)
{
    struct peers *p = xcalloc(1, sizeof(*p));
    int r;

    p->loop = args->loop;
    p->ops = args->ops;
    p->user = args->user;
    p->tls_conf = args->tls;
    p->run_dir = args->run_dir;
    p->stuck_ms = args->stuck_ms != 0 ? args->stuck_ms : STUCK_MS;
    p->self = (struct peer_header){
        .cluster_id = args->cluster_id, .from = args->member_id, .generation = args->generation};
    p->self_urls = xstrdup(args->self_urls);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->apart_ended, NULL);
    p->pull_ref = (struct lane_ref){.peers = p};
    p->wake = loop_wake_new(p->loop, "peers", peers_on_wake, p);
    p->flush = loop_hook_new(p->loop, "peers_flush", LOOP_PHASE_FLUSH, peers_on_flush, p);
    p->reopen = loop_timer_new(p->loop, "peers_reopen", peers_on_reopen, p);
    p->check = loop_timer_new(p->loop, "peers_check", peers_on_check, p);
    loop_timer_start(p->check, CHECK_MS, CHECK_MS);
    p->probe_end = loop_timer_new(p->loop, "peers_probe", peers_on_probe_end, p);
    r = listen_all(p, args->listen_urls, ret_error);
    if (r != 0) {
        peers_stop(p);
        return r;
    }
    *ret = p;
    return 0;
}

void peers_stop(struct peers *p)
{
    bool ended;

    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_mutex_unlock(&p->lock);
    loop_timer_free(p->check);
    loop_timer_free(p->reopen);
    loop_timer_free(p->probe_end);
    loop_hook_free(p->flush);
    loop_wake_free(p->wake);
    peers_listeners_end_probes(p);
    peers_inbox_close(p);
    for (size_t i = 0; i < p->count; i++)
        peer_close(p->list[i]);
    ended = peers_wait_for_apart(p);
    peer_tls_stop(p->tls);
    p->tls = NULL;
    if (!ended)
        return; /* they still use it */
    peers_listeners_free(p);
    peers_inbox_free(p);
    pthread_cond_destroy(&p->apart_ended);
    pthread_mutex_destroy(&p->lock);
    free(p->self_urls);
    free(p);
}
