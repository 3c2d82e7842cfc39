/*
 * For peers.c (life, members), peers_lane.c (a connection we dial), peers_listener.c (where others
 * dial us), peers_inbox.c (what comes over either), peers_check.c (what looks after them) and
 * peers_apart.c (calls of nng that may block). All of it is for the loop thread, except where said.
 */
#ifndef CONCLAVE_RAFTD_PEERS_INTERNAL_H
#define CONCLAVE_RAFTD_PEERS_INTERNAL_H

#include <nng/nng.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/url.h"
#include "raftd/peer/peers.h"

/* Told to nng as callback argument; belongs to the lane, at the end to the thread that closes its
 * socket. */
struct lane_ref {
    struct peers *peers;
    uint64_t lane_id; /* 0: of the pull socket */
    bool ended;       /* under the lock: its connection is gone, and nothing may be sent any more */
};

/* down -> up on nng's pipe event, then at most one batch is with nng at a time, and the rest
 * gathers in `out`; up -> ended, and after reopen_ms a new socket. */
enum { PEERS_PING_MS = 2000 }; /* over each connection */

struct lane {
    struct peers *peers;
    uint64_t lane_id;
    uint64_t peer_id;
    enum peer_lane kind;
    nng_socket sock;
    nng_dialer dialer;
    struct loop_io *sendable;
    struct lane_ref *ref;
    bool open, up, overflowed;
    bool ended; /* to be opened anew at reopen_ms */
    uint64_t up_since_ms, reopen_ms;
    bool blocked; /* nng takes no batch now */
    uint64_t blocked_since_ms;
    int pipe;
    uint64_t dialing_since_ms;
    struct buf out; /* while up: begins with a batch header */
};

struct peer {
    uint64_t id;
    struct url_list urls;
    size_t url_at;
    struct lane lanes[PEER_LANE_COUNT];
    uint32_t backoff_ms[PEER_LANE_COUNT];
    int inbound[PEER_LANE_COUNT]; /* connections it made to us; 0: none */
    uint64_t one_way_since_ms;    /* we reach it, it does not (fully) reach us; 0: not so */
    struct peer_stats stats;
    bool refusal_logged;
};

struct listener {
    char *url;     /* in nng's words */
    bool relayed;  /* a private socket behind the TLS relay */
    uint32_t id;   /* 0: none */
    bool renewing; /* under the lock, as id */
    bool probing;
    nng_socket probe;
};

struct pipe_event {
    uint64_t lane_id; /* 0: of the pull socket */
    int pipe;
    uint32_t listener; /* lane_id 0: the pipe's */
    bool added;
};

struct peers {
    struct loop *loop;
    struct loop_wake *wake;
    struct loop_hook *flush;
    struct loop_timer *check;
    const struct peers_ops *ops;
    void *user;
    const struct peer_tls_conf *tls_conf;
    const char *run_dir;
    struct peer_tls *tls;    /* NULL: no https:// URL so far */
    struct peer_header self; /* from, cluster, generation */
    char *self_urls;
    struct peer *list[PEERS_MAX];
    size_t count;
    uint64_t last_lane_id;
    struct loop_timer *reopen;
    struct lane *current; /* between begin and end */
    size_t current_start;
    struct peers_totals totals;
    bool stranger_logged;

    nng_socket pull;
    bool pull_open;
    nng_aio *pull_aio;
    struct lane_ref pull_ref;
    struct listener *listeners;
    size_t listener_count;
    struct loop_timer *probe_end;
    uint64_t last_probe_ms, last_ping_ms, stuck_ms;

    pthread_mutex_t lock; /* what follows; also touched by nng's threads */
    pthread_cond_t apart_ended;
    size_t apart;  /* threads */
    bool stopping; /* nobody may wake the loop */
    nng_msg **inbox;
    size_t inbox_count, inbox_cap, inbox_bytes;
    bool inbox_stalled;
    struct pipe_event *events;
    size_t event_count, event_cap;
};

/* ---- peers.c ---- */
struct peer *peers_find(const struct peers *p, uint64_t id); /* NULL: none */
/* The relay is there from the first https:// URL on. */
int peers_need_tls(struct peers *p, char **ret_error);
int peers_nng_errno(int rv);

/* ---- peers_lane.c ---- */
/* Of a lane that is closed. Negative errno: cannot dial; peers_lane_check tries again. */
int peers_lane_open(struct peers *p, struct peer *peer, enum peer_lane kind);
void peers_lane_close(struct lane *lane);
void peers_lane_greet(struct peers *p, struct lane *lane); /* drops what is queued */
/* Another dialer for a lane that stays down. */
void peers_lane_check(struct peers *p, struct peer *peer, struct lane *lane);
void peers_lane_on_pipe(struct peers *p, const struct pipe_event *ev);
void peers_on_flush(void *user);
void peers_on_reopen(void *user);

/* ---- peers_listener.c ---- */
int peers_listeners_open(struct peers *p, const struct url_list *urls, char **ret_error);
void peers_listeners_end_probes(struct peers *p);
void peers_listeners_free(struct peers *p);
/* A caller came through this one of nng's listeners. */
void peers_listener_answered(struct peers *p, uint32_t id);
/* Dials them; each that lives brings a pipe, see peers_listener_answered. */
void peers_probe_listeners(struct peers *p);
void peers_on_probe_end(void *user);

/* ---- peers_inbox.c ---- */
int peers_inbox_open(struct peers *p, char **ret_error);
void peers_inbox_start(struct peers *p);
void peers_inbox_close(struct peers *p);
void peers_inbox_free(struct peers *p); /* nng's threads are through with it */
void peers_on_wake(void *user);
void peers_on_pipe(nng_pipe pipe, nng_pipe_ev ev, void *arg); /* nng's threads; arg: lane_ref */
/* As if nng had told it; takes effect with the next turn of the loop. */
void peers_inbox_lane_ended(struct peers *p, uint64_t lane_id);

/* ---- peers_check.c ---- */
void peers_on_check(void *user);
void peers_on_ping(struct peers *p, uint64_t from, const struct peer_frame *f); /* or a pong */

/* ---- peers_apart.c ---- */
struct errand {
    struct peers *peers;
    void (*run)(struct errand *e); /* in its own thread */
    nng_socket sock;               /* close it, */
    nng_aio *aio;                  /* then free this, or NULL, */
    struct lane_ref *ref;          /* and this, or NULL */
    uint32_t dialer;               /* close it */
    struct listener *listener;     /* replace it */
};
void peers_run_apart(const struct errand *errand); /* copied */
void peers_run_close_socket(struct errand *e);
bool peers_wait_for_apart(struct peers *p); /* false: some are still at it */

#endif
