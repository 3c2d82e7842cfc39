/*
 * What looks after the connections, every half second: pings, lanes that stay down, and peers that
 * we reach and that do not reach us (peers_listener.c says why that happens).
 */
#include "lib/loop/loop.h"
#include "lib/metrics/metrics.h"
#include "lib/wire/wire.h"
#include "raftd/peer/peers_internal.h"

enum {
    ONE_WAY_MS = 2000, /* we reach a peer that long, and it does not reach us */
};

static void ping(struct peers *p, uint64_t id, enum peer_lane lane, enum peer_type type,
                 uint64_t clock_ns)
{
    struct buf *b = peers_begin(p, id, lane, type);

    if (b == NULL)
        return;
    wire_put_u64(b, clock_ns);
    peers_end(p);
}

/* Over each connection, so that the other side knows all of them; only the main one is measured. */
static void ping_peer(struct peers *p, const struct peer *peer)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++) {
        if (peer->lanes[k].up)
            ping(p, peer->id, (enum peer_lane)k, PEER_PING,
                 k == PEER_LANE_MAIN ? loop_clock_ns() : 0);
    }
}

static bool reaches_us(const struct peer *peer)
{
    for (int k = 0; k < PEER_LANE_COUNT; k++) {
        if (peer->inbound[k] == 0)
            return false;
    }
    return true;
}

void peers_on_ping(struct peers *p, uint64_t from, const struct peer_frame *f)
{
    struct peer *peer = peers_find(p, from);
    struct wire_reader r = wire_reader(f->body);
    uint64_t clock_ns = wire_get_u64(&r), now = loop_clock_ns();

    if (peer == NULL || r.bad || clock_ns == 0)
        return;
    if (f->type == PEER_PING)
        ping(p, peer->id, PEER_LANE_MAIN, PEER_PONG, clock_ns);
    else if (clock_ns <= now)
        metrics_histogram_add(&peer->stats.round_trips, now - clock_ns);
}

void peers_on_check(void *user)
{
    struct peers *p = user;
    uint64_t now = loop_now_ms(p->loop);
    bool deaf = false;

    for (size_t i = 0; i < p->count; i++) {
        struct peer *peer = p->list[i];

        for (int k = 0; k < PEER_LANE_COUNT; k++)
            peers_lane_check(p, peer, &peer->lanes[k]);
        if (!peer->stats.up || reaches_us(peer))
            peer->one_way_since_ms = 0;
        else if (peer->one_way_since_ms == 0)
            peer->one_way_since_ms = now;
        else if (now - peer->one_way_since_ms >= ONE_WAY_MS)
            deaf = true;
    }
    if (now - p->last_ping_ms >= PEERS_PING_MS) {
        p->last_ping_ms = now;
        for (size_t i = 0; i < p->count; i++)
            ping_peer(p, p->list[i]);
    }
    if (deaf && now - p->last_probe_ms >= ONE_WAY_MS)
        peers_probe_listeners(p);
}
