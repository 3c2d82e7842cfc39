/*
 * What raftd says to the raftd of other members. One nng message is a batch: a header that names
 * protocol version, cluster, sender, receiver and the sender's generation, then frames. As every
 * batch carries the header, no connection has a state that a lost first message could break.
 *
 * Nothing here is trusted: decoders check every length and return -EBADMSG; a snapshot message
 * never arrives as such (the receiver makes it itself once the data is staged), so one that does
 * is malformed. Borrowed bytes live as long as the batch.
 */
#ifndef CONCLAVE_RAFTD_PEER_MSG_H
#define CONCLAVE_RAFTD_PEER_MSG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/wire/wire.h"
#include "raftd/core/raft.h"

enum {
    PEER_VERSION = 1,
    PEER_BATCH_BYTES_MAX = 160 << 20, /* two entries of the largest size and change */
};

enum peer_type {
    PEER_HELLO = 1,       /* peer_hello: first frame after each connect */
    PEER_RAFT,            /* a raft_msg */
    PEER_PROPOSE,         /* a proto_payload for the leader, as gatewayd made it */
    PEER_PROPOSE_FAILED,  /* peer_propose_failed: it did not enter the log */
    PEER_MEMBERS_QUERY,   /* bytes: the asker's peer URLs. The one frame that needs no cluster id */
    PEER_MEMBERS,         /* peer_members */
    PEER_SNAP_META,       /* peer_snap_meta. From the leader, bulk connection: */
    PEER_SNAP_CHUNK,      /* u64 transfer id, then a proto_snap_chunk */
    PEER_SNAP_CANCEL,     /* u64 transfer id */
    PEER_SNAP_ACK,        /* peer_snap_ack. From the follower: */
    PEER_SNAP_END,        /* peer_snap_end */
    PEER_HASH,            /* peer_hash */
    PEER_FORWARD,         /* peer_forward: a request of the sender's stored for the leader's */
    PEER_FORWARD_REPLY,   /* peer_forward_reply */
    PEER_PING,            /* u64: the sender's clock; unless it is 0 answered with */
    PEER_PONG,            /* the same */
    PEER_TYPE_MAX = PEER_PONG,
};

struct peer_header {
    uint64_t cluster_id, from, to, generation; /* 0: not known yet (a member that joins) */
};
void peer_header_encode(struct buf *b, const struct peer_header *h);
int peer_header_decode(struct wire_reader *r, struct peer_header *ret); /* -EPROTO: other version */

struct peer_frame {
    enum peer_type type;
    struct bytes body;
};
/* begin returns where the frame starts; append the body, then end. */
size_t peer_frame_begin(struct buf *b, enum peer_type type);
void peer_frame_end(struct buf *b, size_t start);
int peer_frame_read(struct wire_reader *r, struct peer_frame *ret);

void peer_raft_msg_encode(struct buf *b, const struct raft_msg *m);
/* from and to are the header's. On 0 the message owns its entries: raft_msg_fini. */
int peer_raft_msg_decode(struct bytes body, const struct peer_header *h, struct raft_msg *ret);

struct peer_hello {
    struct bytes peer_urls; /* of the sender, for a receiver that has not learned of it yet */
};
void peer_hello_encode(struct buf *b, const struct peer_hello *m);
int peer_hello_decode(struct bytes body, struct peer_hello *ret);

struct peer_propose_failed {
    uint64_t generation, request_id; /* of the payload's origin */
    uint16_t outcome;
};
void peer_propose_failed_encode(struct buf *b, const struct peer_propose_failed *m);
int peer_propose_failed_decode(struct bytes body, struct peer_propose_failed *ret);

struct peer_members {
    uint64_t cluster_id;  /* 0: the answering member is not set up itself */
    struct bytes members; /* proto_member, repeated */
};
void peer_members_encode(struct buf *b, const struct peer_members *m);
int peer_members_decode(struct bytes body, struct peer_members *ret);

struct peer_snap_meta {
    uint64_t transfer_id, term; /* the leader's term */
    struct bytes meta;          /* proto_snap_meta */
};
void peer_snap_meta_encode(struct buf *b, const struct peer_snap_meta *m);
int peer_snap_meta_decode(struct bytes body, struct peer_snap_meta *ret);

struct peer_snap_ack {
    uint64_t transfer_id, consumed;
};
void peer_snap_ack_encode(struct buf *b, const struct peer_snap_ack *m);
int peer_snap_ack_decode(struct bytes body, struct peer_snap_ack *ret);

struct peer_snap_end {
    uint64_t transfer_id, index; /* index 0: failed, outcome says why */
    uint16_t outcome;
};
void peer_snap_end_encode(struct buf *b, const struct peer_snap_end *m);
int peer_snap_end_decode(struct bytes body, struct peer_snap_end *ret);

struct peer_hash {
    uint64_t index, chain_hash; /* of the keyspace after executing index */
};
void peer_hash_encode(struct buf *b, const struct peer_hash *m);
int peer_hash_decode(struct bytes body, struct peer_hash *ret);

struct peer_forward {
    uint64_t call_id; /* the asking stored's */
    struct bytes body;
};
void peer_forward_encode(struct buf *b, const struct peer_forward *m);
int peer_forward_decode(struct bytes body, struct peer_forward *ret);

struct peer_forward_reply {
    uint64_t call_id;
    uint16_t outcome;
    struct bytes body;
};
void peer_forward_reply_encode(struct buf *b, const struct peer_forward_reply *m);
int peer_forward_reply_decode(struct bytes body, struct peer_forward_reply *ret);

/* A peer URL in nng's words; localhost becomes 127.0.0.1, so that no resolver is needed for it.
 * NULL: a scheme that members do not speak. free() */
char *peer_nng_url(const char *url);

#endif
