/*
 * What the daemons of one member say to each other: one struct, one encode and one decode per
 * message. ARCHITECTURE.md has the table of who sends what. Peers (raftd to raftd) have their own
 * messages in raftd/peer.
 *
 * encode appends a frame body to a buf (typically the one ipc_link_begin gave). decode reads one
 * frame body and returns 0 or -EBADMSG; every `bytes` in a decoded struct is borrowed from it.
 * All of one member's daemons have the same version; HELLO refuses anything else, so there is no
 * field-level compatibility inside a link.
 */
#ifndef CONCLAVE_PROTO_MESSAGES_H
#define CONCLAVE_PROTO_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

enum { PROTO_VERSION = 1 };

enum proto_daemon {
    PROTO_DAEMON_RAFTD = 1,
    PROTO_DAEMON_STORED,
    PROTO_DAEMON_GATEWAYD,
    PROTO_DAEMON_PROXYD,
};

enum proto_type {
    /* gatewayd -> raftd */
    PROTO_PROPOSE = 16,   /* id: request id; body: a proto_payload, becomes the raft entry as it is */
    PROTO_STATUS_GET,     /* id: request id; body empty */
    /* raftd -> gatewayd */
    PROTO_PROPOSE_FAILED, /* id: request id; body: proto_outcome. Success is answered by stored */
    PROTO_RAFT_STATUS,    /* id: request id, or 0 when pushed on a change; body: proto_raft_status */

    /* gatewayd -> stored */
    PROTO_READ = 32,      /* id: request id; body: proto_read */
    PROTO_CANCEL,         /* id: request id of a READ whose caller went away; body empty */
    PROTO_READ_ACK,       /* id: request id of a READ; body: proto_u64: answer bytes consumed so far */
    /* stored -> gatewayd */
    PROTO_RESULT,         /* id: request id of a READ or PROPOSE; body: proto_result */

    /* raftd -> stored */
    PROTO_COMMITTED = 48, /* id: 0; body: proto_entry, repeated, in index order */
    PROTO_ROLE,           /* id: sequence for ROLE_ACK; body: proto_raft_status */
    PROTO_BARRIER_INDEX,  /* id: barrier id; body: proto_barrier_index */
    PROTO_SNAP_SEND,      /* id: transfer id; body empty: stream your state to me */
    PROTO_SNAP_RECEIVE,   /* id: transfer id; body: proto_snap_meta: chunks of a foreign state follow */
    PROTO_SNAP_ACTIVATE,  /* id: transfer id: the received state becomes yours; answered by SNAP_DONE */
    PROTO_SNAP_CANCEL,    /* id: transfer id, either direction of transfer */
    PROTO_SNAP_ACK,       /* id: transfer id; body: proto_u64: bytes consumed so far (both directions) */
    /* stored -> raftd */
    PROTO_APPLIED,        /* id: 0; body: proto_applied */
    PROTO_READ_BARRIER,   /* id: barrier id; body empty */
    PROTO_ROLE_ACK,       /* id: of the ROLE; body empty */
    PROTO_MEMBERS,        /* id: 0; body: proto_member, repeated: the whole list, on up and each change */
    PROTO_SNAP_META,      /* id: transfer id; body: proto_snap_meta, before the first chunk */
    PROTO_SNAP_STAGED,    /* id: transfer id; body: proto_outcome: received, verified and synced, or not */
    PROTO_SNAP_DONE,      /* id: transfer id; body: proto_outcome: activated */
    /* both */
    PROTO_SNAP_CHUNK,     /* id: transfer id; body: proto_snap_chunk */

    /* watches: bodies are in lib/proto/watch.h */
    /* gatewayd -> stored */
    PROTO_WATCH_CREATE = 64,   /* id: watcher; body: proto_watch_create; answered by WATCH_CREATED */
    PROTO_WATCH_CANCEL = 65,   /* id: watcher; body empty; answered by WATCH_CANCELED, always */
    PROTO_WATCH_CLOSE = 66,    /* id: stream; body empty: all its watchers end; WATCH_CLOSED */
    PROTO_WATCH_ACK = 67,      /* id: stream; body: proto_u64: units consumed so far */
    PROTO_WATCH_PROGRESS = 68, /* id: watcher or stream; body: proto_watch_progress */
    /* stored -> gatewayd */
    PROTO_WATCH_CREATED = 72,  /* id: watcher; body: proto_watch_created */
    PROTO_WATCH_CANCELED = 73, /* id: watcher; body: proto_watch_canceled: no more events of it */
    PROTO_WATCH_CLOSED = 74,   /* id: stream; body empty: nothing more of any of its watchers */
    PROTO_WATCH_EVENTS = 75,   /* id: 0; body: events of the newest revisions, and who gets which */
    PROTO_WATCH_HISTORY = 76,  /* id: 0; body: proto_watch_history: for watchers that are behind */
    PROTO_WATCH_BEHIND = 77,   /* id: 0; body: proto_watch_behind: these fell behind */
    PROTO_WATCH_HEAD = 78,     /* id: 0; body: proto_u64: revision up to which every watcher that is
                                  not behind has got everything */
    PROTO_WATCH_PROGRESSED = 79, /* id: of the WATCH_PROGRESS; body: proto_watch_progress. Comes only
                                    when the watcher, or all of the stream, are not behind */

    /* stored -> raftd */
    PROTO_PROPOSE_OWN = 80, /* id: 0; body: proto_propose_own: an entry nobody waits for */
    PROTO_FORWARD = 81,   /* id: call id; body: a request for the leader's stored, opaque to raftd */
    PROTO_FORWARD_REPLY = 82, /* id of the FORWARDED; body: proto_forward_reply */
    /* raftd -> stored */
    PROTO_FORWARDED = 83, /* id: the asker's call id; body: proto_forwarded */
    PROTO_FORWARD_RESULT = 84, /* id: call id of a FORWARD; body: proto_forward_result. May never
                                  come (a connection broke): the asker asks again */

    /* stored -> gatewayd */
    PROTO_AUTH_CHANGED = 112, /* id: 0; body: proto_auth_state: on up, and after every change of
                                 auth: identities handed out before are to be asked for again */
    /* gatewayd -> raftd */
    PROTO_RAFT_CALL = 96, /* id: request id; body: proto_raft_call: about leadership, not an entry */
    /* raftd -> gatewayd */
    PROTO_RAFT_CALLED = 97, /* id: request id of a RAFT_CALL; body: proto_outcome */
    /* gatewayd -> raftd */
    PROTO_METRICS_GET = 140, /* id: request id; body empty */
    /* raftd -> gatewayd */
    PROTO_METRICS = 141,  /* id: request id; body: raftd's metrics, as lib/metrics writes them */
    /* stored -> gatewayd */
    PROTO_SPACE = 98,     /* id: 0; body: proto_space: on up, and as the quota comes nearer */
};

/* ---- HELLO ---- */
struct proto_hello {
    enum proto_daemon daemon;
    uint64_t generation;    /* of the sending process */
    uint32_t gateway_index; /* gatewayd: which worker, from 0 */
    uint64_t cluster_id, member_id; /* 0: not known yet (a fresh stored, or gatewayd) */
    /* stored only: what it has executed */
    uint64_t applied_index, applied_term, durable_index, chain_hash;
    struct bytes conf_state; /* stored only: proto_member list as of applied_index */
};
void proto_hello_encode(struct buf *b, const struct proto_hello *m);
int proto_hello_decode(struct bytes body, struct proto_hello *ret); /* -EPROTO: other version */

/* ---- the payload of a raft entry (type normal) ---- */
enum proto_kind {
    PROTO_KIND_PUT = 1,      /* body: etcdserverpb.PutRequest as the client sent it */
    PROTO_KIND_DELETE_RANGE,
    PROTO_KIND_TXN,
    PROTO_KIND_COMPACT,
    PROTO_KIND_ALARM,
    PROTO_KIND_LEASE_GRANT,  /* body: proto_lease_grant */
    PROTO_KIND_LEASE_REVOKE, /* body: etcdserverpb.LeaseRevokeRequest */
    PROTO_KIND_MEMBER_ATTR,  /* body: proto_member: name and client_urls of id (raftd publishes) */
    PROTO_KIND_CLUSTER_VERSION, /* body: text "3.7.0" */
    PROTO_KIND_CONF_CHANGE,  /* in entries of type conf: body: proto_conf_change */

    /* what the leader's stored says of leases; without effect unless it is still the one that
     * decides about them (ARCHITECTURE.md "Leases") */
    PROTO_KIND_LEASE_KEEPER = 20, /* body: proto_u64: a number, new each time a stored takes over */
    PROTO_KIND_LEASE_CLOCK = 21,  /* body: proto_lease_clock */
    PROTO_KIND_LEASE_EXPIRE = 22, /* body: u64 keeper, u64 granted, then i64 lease ids */

    /* auth; bodies are etcdserverpb.Auth*Request, with a hash where the client sent a password */
    PROTO_KIND_AUTH_KEY = 30, /* from the leader's stored only; body: what identities are signed by */
    PROTO_KIND_AUTH_ENABLE,
    PROTO_KIND_AUTH_DISABLE,
    PROTO_KIND_AUTH_TOKEN,    /* identity: who logged in; body: SHA-256 of the token's letters */
    PROTO_KIND_USER_ADD,
    PROTO_KIND_USER_DELETE,
    PROTO_KIND_USER_CHANGE_PASSWORD,
    PROTO_KIND_USER_GRANT_ROLE,
    PROTO_KIND_USER_REVOKE_ROLE,
    PROTO_KIND_ROLE_ADD,
    PROTO_KIND_ROLE_DELETE,
    PROTO_KIND_ROLE_GRANT_PERMISSION,
    PROTO_KIND_ROLE_REVOKE_PERMISSION, /* 42 */
    PROTO_KIND_DOWNGRADE = 50, /* body: text "3.6.0", the target; empty: none, or none any more */

    PROTO_KIND_MAX = 63, /* a kind the executing stored does not know ends as OUT_UNIMPLEMENTED */
};
struct proto_payload {
    enum proto_kind kind;
    /* where the answer goes: stored of this member sends RESULT to the gatewayd with this
     * generation; any other stored executes the entry and answers nobody */
    uint64_t origin_member;
    uint64_t origin_generation; /* 0: nobody waits */
    uint64_t request_id;
    struct bytes identity; /* stamp of the authenticated user; empty while auth is off */
    struct bytes body;     /* the rest of the payload */
};
void proto_payload_encode(struct buf *b, const struct proto_payload *m);
int proto_payload_decode(struct bytes body, struct proto_payload *ret);

/* ---- leases ---- */
struct proto_lease_grant {
    int64_t id;      /* not 0: gatewayd chose one */
    int64_t ttl;     /* seconds, as the client sent it */
    int64_t ttl_min; /* what it is raised to: by the proposer's election timeout */
};
void proto_lease_grant_encode(struct buf *b, const struct proto_lease_grant *m);
int proto_lease_grant_decode(struct bytes body, struct proto_lease_grant *ret);

/* The lease clock goes on to now_ms; then the deadlines of some leases as of that clock. Here and
 * in LEASE_EXPIRE, `granted` is how many leases had ever been granted when it was proposed: one
 * with the same id that was granted later is not meant. */
struct proto_lease_clock {
    uint64_t keeper, now_ms, granted;
    struct bytes deadlines; /* the rest: repeated {i64 lease id, u64 deadline_ms, 0: forget it} */
};
void proto_lease_clock_encode(struct buf *b, const struct proto_lease_clock *m);
int proto_lease_clock_decode(struct bytes body, struct proto_lease_clock *ret);

/* ---- stored asks raftd ---- */
struct proto_propose_own {
    uint64_t term; /* dropped unless this member leads in this term; 0: by way of the leader */
    enum proto_kind kind;
    struct bytes body; /* the rest */
};
void proto_propose_own_encode(struct buf *b, const struct proto_propose_own *m);
int proto_propose_own_decode(struct bytes body, struct proto_propose_own *ret);

struct proto_forwarded {
    uint64_t member_id; /* who asks; goes into the reply */
    struct bytes body;  /* the rest */
};
void proto_forwarded_encode(struct buf *b, const struct proto_forwarded *m);
int proto_forwarded_decode(struct bytes body, struct proto_forwarded *ret);
struct proto_forward_reply {
    uint64_t member_id;
    uint16_t outcome; /* OUT_NOT_LEADER: ask again once the leader is known */
    struct bytes body;
};
void proto_forward_reply_encode(struct buf *b, const struct proto_forward_reply *m);
int proto_forward_reply_decode(struct bytes body, struct proto_forward_reply *ret);
struct proto_forward_result {
    uint16_t outcome;
    struct bytes body;
};
void proto_forward_result_encode(struct buf *b, const struct proto_forward_result *m);
int proto_forward_result_decode(struct bytes body, struct proto_forward_result *ret);

/* ---- members ---- */
struct proto_member {
    uint64_t id;
    bool is_learner;
    bool removed; /* tombstone: an id is never used again */
    struct bytes name;        /* empty until the member has published itself */
    struct bytes peer_urls;   /* comma-separated, sorted */
    struct bytes client_urls; /* comma-separated */
};
void proto_member_encode(struct buf *b, const struct proto_member *m);
/* Reads one and advances; call while r->pos < r->end. */
struct wire_reader;
int proto_member_read(struct wire_reader *r, struct proto_member *ret);

enum proto_conf_op {
    PROTO_CONF_ADD_VOTER = 1,
    PROTO_CONF_ADD_LEARNER,
    PROTO_CONF_PROMOTE,
    PROTO_CONF_REMOVE,
    PROTO_CONF_UPDATE, /* peer_urls only */
};
struct proto_conf_change {
    enum proto_conf_op op;
    struct proto_member member;
};
void proto_conf_change_encode(struct buf *b, const struct proto_conf_change *m);
int proto_conf_change_decode(struct bytes body, struct proto_conf_change *ret);

/* ---- COMMITTED ---- */
enum proto_entry_type { PROTO_ENTRY_NORMAL = 0, PROTO_ENTRY_CONF = 1 };
struct proto_entry {
    uint64_t index, term;
    enum proto_entry_type type;
    struct bytes data; /* proto_payload; empty: a new leader's first entry, executes nothing */
};
void proto_entry_encode(struct buf *b, const struct proto_entry *m);
int proto_entry_read(struct wire_reader *r, struct proto_entry *ret);

/* ---- status and role ---- */
enum proto_raft_state {
    PROTO_RAFT_FOLLOWER,
    PROTO_RAFT_PRE_CANDIDATE,
    PROTO_RAFT_CANDIDATE,
    PROTO_RAFT_LEADER,
};
struct proto_raft_status {
    uint64_t cluster_id, member_id, leader_id; /* leader 0: none known */
    uint64_t term, commit_index, applied_index, last_index;
    enum proto_raft_state state;
    bool is_learner;
    /* Reads need no barrier: this member is the only voter, and raftd will append no membership
     * change before the ROLE that takes this back has been acknowledged (ARCHITECTURE.md). Valid
     * once applied >= commit_index of the ROLE that granted it, and only while the link is up. */
    bool local_reads;
    uint64_t leader_changes;   /* seen by this process */
    uint64_t proposals_pending;
    uint64_t proposals_failed; /* since start, as the next */
    uint64_t read_indexes_failed;
    uint64_t election_timeout_ms;
};
void proto_raft_status_encode(struct buf *b, const struct proto_raft_status *m);
int proto_raft_status_decode(struct bytes body, struct proto_raft_status *ret);

/* ---- reads ---- */
enum proto_read_kind {
    PROTO_READ_RANGE = 1, /* RangeRequest -> RangeResponse */
    PROTO_READ_TXN,       /* TxnRequest without writes -> TxnResponse */
    PROTO_READ_MEMBERS,   /* MemberListRequest -> MemberListResponse */
    PROTO_READ_ALARMS,    /* AlarmRequest(GET) -> AlarmResponse */
    PROTO_READ_HASH_KV,   /* HashKVRequest -> HashKVResponse */
    PROTO_READ_STATUS,    /* empty -> proto_store_status (not protobuf) */

    PROTO_READ_LEASE_KEEP_ALIVE = 20, /* i64 ids -> per id {u32 length, LeaseKeepAliveResponse} */
    PROTO_READ_LEASE_TTL = 21,        /* LeaseTimeToLiveRequest -> LeaseTimeToLiveResponse */
    PROTO_READ_LEASES = 22,           /* LeaseLeasesRequest -> LeaseLeasesResponse */

    /* auth */
    PROTO_READ_AUTH_IDENTITY = 30, /* proto_auth_claim -> proto_auth_identity */
    PROTO_READ_AUTH_LOGIN,     /* AuthenticateRequest -> proto_auth_login */
    PROTO_READ_AUTH_HASH,      /* a new password, by root -> its hash */
    PROTO_READ_AUTH_NEED,      /* u8 proto_auth_need -> empty: may this identity do that? */
    PROTO_READ_AUTH_STATUS,    /* AuthStatusRequest -> AuthStatusResponse, and so on */
    PROTO_READ_USER_GET,
    PROTO_READ_USER_LIST,
    PROTO_READ_ROLE_GET,
    PROTO_READ_ROLE_LIST, /* 38 */
    PROTO_READ_METRICS = 49,    /* empty -> stored's metrics, as lib/metrics writes them */
    PROTO_READ_DEFRAGMENT = 50, /* empty -> empty, when what was compacted away is gone from disk */
    PROTO_READ_SNAPSHOT = 60, /* empty -> etcd's database file and its SHA-256, of this member */
    PROTO_READ_ADMIT = 51,      /* u64: bytes a write would add -> empty, or OUT_NO_SPACE, when the
                                   NOSPACE alarm that says so is active */

    PROTO_READ_MAX = 63,
};
struct proto_read {
    enum proto_read_kind kind;
    bool linearizable; /* wait for a read barrier first */
    struct bytes identity;
    struct bytes body; /* the rest */
};
void proto_read_encode(struct buf *b, const struct proto_read *m);
int proto_read_decode(struct bytes body, struct proto_read *ret);

/* What stored may send of one answer beyond what READ_ACK has acknowledged, so that a client that
 * reads slowly holds neither daemon's memory. Answers of at most one window need no ack. */
enum { PROTO_RESULT_WINDOW_BYTES = 1 << 20 };

/* A large answer comes in parts: every part repeats total_bytes; the parts' bytes, in order, are
 * the response message. An outcome other than OK is a single part without bytes; it can also end
 * an answer half way (then the caller must fail the call). */
struct proto_result {
    uint16_t outcome;
    uint64_t total_bytes;
    struct bytes part; /* the rest */
};
void proto_result_encode(struct buf *b, const struct proto_result *m);
int proto_result_decode(struct bytes body, struct proto_result *ret);

struct proto_store_status {
    int64_t revision, compact_revision;
    uint64_t applied_index, durable_index;
    uint64_t db_bytes;        /* on disk */
    uint64_t db_bytes_in_use; /* what the keyspace needs of them; this counts for the quota */
    uint64_t quota_bytes;     /* 0: no limit */
    uint64_t key_count, chain_hash;
    uint64_t put_total, delete_total, txn_total, range_total;
    uint64_t write_batch_count, write_batch_ns_sum;
    uint64_t cache_bytes, index_bytes;
    struct bytes cluster_version; /* "" until decided */
    struct bytes downgrade;       /* target version of a downgrade under way, or "" */
    struct bytes alarms;          /* repeated {u64 member id, u32 alarm type} */
};
void proto_store_status_encode(struct buf *b, const struct proto_store_status *m);
int proto_store_status_decode(struct bytes body, struct proto_store_status *ret);

/* ---- auth ---- */

/* What a method that stored does not see needs of its caller. */
enum proto_auth_need {
    PROTO_AUTH_NEED_NOTHING_KNOWN, /* nobody said: refused while auth is enabled */
    PROTO_AUTH_NEED_USER,          /* any valid user */
    PROTO_AUTH_NEED_ROOT,          /* a user with the role root */
};

struct proto_auth_state {
    bool enabled;
    uint64_t revision;
};
void proto_auth_state_encode(struct buf *b, const struct proto_auth_state *m);
int proto_auth_state_decode(struct bytes body, struct proto_auth_state *ret);

enum proto_auth_claim_type {
    PROTO_AUTH_CLAIM_TOKEN = 1,
    PROTO_AUTH_CLAIM_COMMON_NAME, /* of the verified client certificate of a connection */
};
struct proto_auth_claim {
    enum proto_auth_claim_type type;
    struct bytes value;
};
void proto_auth_claim_encode(struct buf *b, const struct proto_auth_claim *m);
int proto_auth_claim_decode(struct bytes body, struct proto_auth_claim *ret);

/* stamp: goes as `identity` with everything this caller asks for. Empty while auth is off. */
struct proto_auth_identity {
    uint32_t valid_ms; /* ask again after this, or when auth changed */
    struct bytes stamp;
};
void proto_auth_identity_encode(struct buf *b, const struct proto_auth_identity *m);
int proto_auth_identity_decode(struct bytes body, struct proto_auth_identity *ret);

/* The password was right. token: a JWT for the client; empty: propose an AUTH_TOKEN with the stamp
 * (its answer is u64 index, then AuthenticateResponse without the token). */
struct proto_auth_login {
    struct bytes stamp, token;
    struct bytes response; /* AuthenticateResponse without the token */
};
void proto_auth_login_encode(struct buf *b, const struct proto_auth_login *m);
int proto_auth_login_decode(struct bytes body, struct proto_auth_login *ret);
/* How much more the keyspace may grow before writes are refused (etcd --quota-backend-bytes).
 * Told again when an eighth of what was left is used up or freed, so it is never far off. */
struct proto_space {
    uint64_t used_bytes, quota_bytes; /* quota 0: no limit */
};
void proto_space_encode(struct buf *b, const struct proto_space *m);
int proto_space_decode(struct bytes body, struct proto_space *ret);

enum proto_raft_op {
    PROTO_RAFT_MOVE_LEADER = 1, /* to `member`: OUT_OK when it leads, OUT_NOT_LEADER,
                                   OUT_BAD_LEADER_TRANSFEREE, OUT_LEADER_TRANSFER_TIMEOUT */
};
struct proto_raft_call {
    enum proto_raft_op op;
    uint64_t member;
};
void proto_raft_call_encode(struct buf *b, const struct proto_raft_call *m);
int proto_raft_call_decode(struct bytes body, struct proto_raft_call *ret);

/* ---- small ones ---- */
struct proto_outcome {
    uint16_t outcome;
};
void proto_outcome_encode(struct buf *b, const struct proto_outcome *m);
int proto_outcome_decode(struct bytes body, struct proto_outcome *ret);

struct proto_barrier_index {
    uint16_t outcome; /* OUT_OK, OUT_NO_LEADER, OUT_TIMEOUT..., OUT_LEADER_CHANGED */
    uint64_t index;   /* a read may be served once applied >= index */
    uint64_t term;    /* this member leads in it now; 0: it does not lead */
};
void proto_barrier_index_encode(struct buf *b, const struct proto_barrier_index *m);
int proto_barrier_index_decode(struct bytes body, struct proto_barrier_index *ret);

struct proto_applied {
    uint64_t applied_index, durable_index, chain_hash;
};
void proto_applied_encode(struct buf *b, const struct proto_applied *m);
int proto_applied_decode(struct bytes body, struct proto_applied *ret);

struct proto_u64 {
    uint64_t value;
};
void proto_u64_encode(struct buf *b, const struct proto_u64 *m);
int proto_u64_decode(struct bytes body, struct proto_u64 *ret);

struct proto_snap_meta {
    uint64_t index, term, chain_hash;
    uint64_t cluster_id;
    struct bytes conf_state; /* proto_member list */
};
void proto_snap_meta_encode(struct buf *b, const struct proto_snap_meta *m);
int proto_snap_meta_decode(struct bytes body, struct proto_snap_meta *ret);

struct proto_snap_chunk {
    uint64_t offset; /* bytes of the stream before this chunk */
    bool last;       /* this chunk ends with the 32-byte SHA-256 of everything before it */
    struct bytes data;
};
void proto_snap_chunk_encode(struct buf *b, const struct proto_snap_chunk *m);
int proto_snap_chunk_decode(struct bytes body, struct proto_snap_chunk *ret);

#endif
