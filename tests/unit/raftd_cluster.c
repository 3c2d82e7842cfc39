#include "tests/unit/raftd_cluster.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

extern char **environ;

enum { SNAP_BYTES = 3 << 20, SNAP_CHUNK = 64 << 10, SNAP_WINDOW = 256 << 10 };

static uint64_t mix(uint64_t h, struct bytes v)
{
    for (size_t i = 0; i < v.len; i++)
        h = (h ^ v.data[i]) * 0x100000001b3u;
    return h;
}

/* ---- the fake keyspace ---- */

static void state_copy(struct fake_state *to, const struct fake_state *from)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct raftd_members members = to->members;

    raftd_members_encode(&from->members, &b);
    *to = *from;
    to->members = members;
    cr_assert_eq(raftd_members_load(&to->members, buf_bytes(&b)), 0);
}

static void send_members(struct node *n)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    raftd_members_encode(&n->state.members, &b);
    ipc_link_send(n->stored, PROTO_MEMBERS, 0, buf_bytes(&b));
}

static void send_applied(struct node *n)
{
    struct proto_applied a = {.applied_index = n->state.applied,
                              .durable_index = n->state.applied,
                              .chain_hash = n->state.hash};
    struct buf *b;

    if (n->hold_applied || n->applied_told == n->state.applied)
        return;
    b = ipc_link_begin(n->stored, PROTO_APPLIED, 0);
    if (b == NULL)
        return;
    proto_applied_encode(b, &a);
    ipc_link_end(n->stored);
    n->applied_told = n->state.applied;
}

static void execute(struct node *n, const struct proto_entry *e)
{
    struct cluster *c = n->c;
    uint64_t h = mix(e->term + 1, e->data);
    struct proto_payload p;

    cr_assert_eq(e->index, n->state.applied + 1, "node %d: entry %lu after %lu", n->i,
                 (unsigned long)e->index, (unsigned long)n->state.applied);
    cr_assert_geq(e->term, n->state.term);
    cr_assert_lt(e->index, LOG_MAX);
    if (e->index <= c->log_last) {
        cr_assert_eq(c->log_hash[e->index], h, "node %d executes something else at %lu", n->i,
                     (unsigned long)e->index);
    } else {
        cr_assert_eq(e->index, c->log_last + 1);
        c->log_hash[++c->log_last] = h;
        if (proto_payload_decode(e->data, &p) == 0 && p.kind == PROTO_KIND_ALARM) {
            cr_assert_leq(p.body.len, sizeof(c->alarm_body));
            memcpy(c->alarm_body, p.body.data, p.body.len);
            c->alarm_len = p.body.len;
            c->alarm_count++;
        }
    }
    n->state.applied = e->index;
    n->state.term = e->term;
    n->state.hash = mix(n->state.hash + e->index, e->data);
    if (e->data.len == 0)
        return;
    cr_assert_eq(proto_payload_decode(e->data, &p), 0);
    if (p.kind == PROTO_KIND_CONF_CHANGE) {
        struct proto_conf_change change;

        cr_assert_eq(e->type, PROTO_ENTRY_CONF);
        cr_assert_eq(proto_conf_change_decode(p.body, &change), 0);
        raftd_members_apply(&n->state.members, &change);
        send_members(n);
    } else if (p.kind == PROTO_KIND_MEMBER_ATTR) {
        cr_assert_eq(raftd_members_update(&n->state.members, p.body), 0);
        send_members(n);
    }
    if (p.request_id != 0 && p.request_id < REQUESTS_MAX) {
        if (c->done_index[p.request_id] != e->index) {
            c->done[p.request_id]++;
            c->done_index[p.request_id] = e->index;
        }
        cr_assert_eq(c->done[p.request_id], 1, "request %lu executed twice",
                     (unsigned long)p.request_id);
    }
}

static void on_committed(struct node *n, struct bytes body)
{
    struct wire_reader r = wire_reader(body);

    while (r.pos != r.end) {
        struct proto_entry e;

        cr_assert_eq(proto_entry_read(&r, &e), 0);
        execute(n, &e);
        n->delivered++;
    }
    send_applied(n);
}

/* ---- snapshots: bytes without meaning behind true meta data ---- */

static void meta_encode(struct buf *b, const struct fake_state *s, uint64_t cluster_id)
{
    CLEANUP(buf_fini) struct buf members = BUF_INIT;
    struct proto_snap_meta m = {
        .index = s->applied, .term = s->term, .chain_hash = s->hash, .cluster_id = cluster_id};

    raftd_members_encode(&s->members, &members);
    m.conf_state = buf_bytes(&members);
    proto_snap_meta_encode(b, &m);
}

static void out_pump(struct node *n)
{
    static const uint8_t zeros[SNAP_CHUNK];

    while (n->out_active && n->out_offset < SNAP_BYTES &&
           n->out_offset - n->out_acked < SNAP_WINDOW) {
        struct proto_snap_chunk chunk = {.offset = n->out_offset,
                                         .last = n->out_offset + SNAP_CHUNK == SNAP_BYTES,
                                         .data = bytes_of(zeros, SNAP_CHUNK)};
        struct buf *b = ipc_link_begin(n->stored, PROTO_SNAP_CHUNK, n->out_id);

        cr_assert_not_null(b);
        proto_snap_chunk_encode(b, &chunk);
        ipc_link_end(n->stored);
        n->out_offset += SNAP_CHUNK;
    }
    if (n->out_active && n->out_acked == SNAP_BYTES) {
        n->out_active = false;
        n->snapshots_sent++;
    }
}

static void send_outcome(struct node *n, uint16_t type, uint64_t id, int outcome)
{
    struct buf *b = ipc_link_begin(n->stored, type, id);

    cr_assert_not_null(b);
    proto_outcome_encode(b, &(struct proto_outcome){.outcome = (uint16_t)outcome});
    ipc_link_end(n->stored);
}

static void on_snap_send(struct node *n, uint64_t id)
{
    struct buf *b = ipc_link_begin(n->stored, PROTO_SNAP_META, id);

    n->out_active = true;
    n->out_id = id;
    n->out_offset = n->out_acked = 0;
    meta_encode(b, &n->state, n->cluster_id);
    ipc_link_end(n->stored);
    out_pump(n);
}

static void on_snap_receive(struct node *n, const struct ipc_frame *f)
{
    struct proto_snap_meta m;

    cr_assert_eq(proto_snap_meta_decode(f->body, &m), 0);
    n->in_active = true;
    n->in_id = f->id;
    n->in_bytes = 0;
    n->in_state.applied = m.index;
    n->in_state.term = m.term;
    n->in_state.hash = m.chain_hash;
    cr_assert_eq(raftd_members_load(&n->in_state.members, m.conf_state), 0);
}

static void on_snap_chunk(struct node *n, const struct ipc_frame *f)
{
    struct proto_snap_chunk chunk;
    struct buf *b;

    if (!n->in_active || f->id != n->in_id)
        return;
    cr_assert_eq(proto_snap_chunk_decode(f->body, &chunk), 0);
    cr_assert_eq(chunk.offset, n->in_bytes);
    n->in_bytes += chunk.data.len;
    b = ipc_link_begin(n->stored, PROTO_SNAP_ACK, f->id);
    proto_u64_encode(b, &(struct proto_u64){.value = n->in_bytes});
    ipc_link_end(n->stored);
    if (chunk.last)
        send_outcome(n, PROTO_SNAP_STAGED, f->id, OUT_OK);
}

static void on_snap_activate(struct node *n, const struct ipc_frame *f)
{
    cr_assert(n->in_active && f->id == n->in_id);
    cr_assert_gt(n->in_state.applied, n->state.applied);
    state_copy(&n->state, &n->in_state);
    n->applied_told = n->state.applied;
    n->in_active = false;
    n->snapshots_activated++;
    if (n->break_at_activate)
        return;
    send_outcome(n, PROTO_SNAP_DONE, f->id, OUT_OK);
}

/* ---- link of stored ---- */

static void stored_hello(void *user, struct buf *body)
{
    struct node *n = user;
    CLEANUP(buf_fini) struct buf members = BUF_INIT;
    struct proto_hello h = {.daemon = PROTO_DAEMON_STORED,
                            .generation = n->stored_generation,
                            .cluster_id = n->cluster_id,
                            .member_id = n->member_id,
                            .applied_index = n->state.applied,
                            .applied_term = n->state.term,
                            .durable_index = n->state.applied,
                            .chain_hash = n->state.hash};

    raftd_members_encode(&n->state.members, &members);
    h.conf_state = buf_bytes(&members);
    proto_hello_encode(body, &h);
    n->applied_told = n->state.applied;
}

static int stored_on_hello(void *user, struct bytes body)
{
    struct node *n = user;
    struct proto_hello h;

    cr_assert_eq(proto_hello_decode(body, &h), 0);
    cr_assert_eq(h.daemon, PROTO_DAEMON_RAFTD);
    cr_assert_neq(h.cluster_id, 0);
    cr_assert(n->member_id == 0 || n->member_id == h.member_id);
    n->cluster_id = h.cluster_id;
    n->member_id = h.member_id;
    return 0;
}

static void stored_on_up(void *user)
{
    struct node *n = user;

    n->stored_up = true;
    send_members(n);
}

static void stored_on_down(void *user)
{
    struct node *n = user;

    n->stored_up = n->in_active = n->out_active = false;
    n->role = (struct proto_raft_status){0};
}

static void stored_on_frame(void *user, const struct ipc_frame *f)
{
    struct node *n = user;
    struct proto_u64 u64;

    switch (f->type) {
    case PROTO_COMMITTED:
        on_committed(n, f->body);
        break;
    case PROTO_ROLE:
        cr_assert_eq(proto_raft_status_decode(f->body, &n->role), 0);
        n->role_id = f->id;
        if (!n->hold_role_ack)
            ipc_link_send(n->stored, PROTO_ROLE_ACK, f->id, BYTES_EMPTY);
        break;
    case PROTO_BARRIER_INDEX:
        cr_assert_eq(proto_barrier_index_decode(f->body, &n->barrier), 0);
        n->barrier_done = f->id;
        break;
    case PROTO_SNAP_SEND:
        on_snap_send(n, f->id);
        break;
    case PROTO_SNAP_RECEIVE:
        on_snap_receive(n, f);
        break;
    case PROTO_SNAP_CHUNK:
        on_snap_chunk(n, f);
        break;
    case PROTO_SNAP_ACTIVATE:
        on_snap_activate(n, f);
        break;
    case PROTO_SNAP_CANCEL:
        if (f->id == n->out_id)
            n->out_active = false;
        if (f->id == n->in_id)
            n->in_active = false;
        break;
    case PROTO_SNAP_ACK:
        cr_assert_eq(proto_u64_decode(f->body, &u64), 0);
        if (n->out_active && f->id == n->out_id) {
            n->out_acked = u64.value;
            out_pump(n);
        }
        break;
    default:
        cr_assert_fail("stored got type %d", f->type);
    }
}

static const struct ipc_link_ops stored_ops = {.fill_hello = stored_hello,
                                               .on_hello = stored_on_hello,
                                               .on_up = stored_on_up,
                                               .on_down = stored_on_down,
                                               .on_frame = stored_on_frame};

/* ---- link of gatewayd ---- */

static void gateway_hello(void *user, struct buf *body)
{
    struct node *n = user;
    struct proto_hello h = {.daemon = PROTO_DAEMON_GATEWAYD, .generation = n->generation};

    proto_hello_encode(body, &h);
}

static int gateway_on_hello(void *user, struct bytes body)
{
    struct node *n = user;
    struct proto_hello h;

    cr_assert_eq(proto_hello_decode(body, &h), 0);
    n->member_id = h.member_id;
    return 0;
}

static void gateway_on_up(void *user)
{
    struct node *n = user;

    n->gateway_up = true;
}

static void gateway_on_down(void *user)
{
    struct node *n = user;

    n->gateway_up = false;
}

static void gateway_on_frame(void *user, const struct ipc_frame *f)
{
    struct node *n = user;
    struct proto_outcome o;

    switch (f->type) {
    case PROTO_PROPOSE_FAILED:
        cr_assert_eq(proto_outcome_decode(f->body, &o), 0);
        cr_assert_lt(f->id, REQUESTS_MAX);
        n->c->failed[f->id] = (uint8_t)o.outcome;
        break;
    case PROTO_RAFT_STATUS:
        cr_assert_eq(proto_raft_status_decode(f->body, &n->status), 0);
        break;
    case PROTO_RAFT_CALLED:
        cr_assert_eq(proto_outcome_decode(f->body, &o), 0);
        n->c->called[f->id] = o.outcome;
        break;
    default:
        cr_assert_fail("gatewayd got type %d", f->type);
    }
}

static const struct ipc_link_ops gateway_ops = {.fill_hello = gateway_hello,
                                                .on_hello = gateway_on_hello,
                                                .on_up = gateway_on_up,
                                                .on_down = gateway_on_down,
                                                .on_frame = gateway_on_frame};

/* ---- nodes ---- */

static uint64_t last_generation = 100;

static void link_start(struct node *n, const char *name, const struct ipc_link_ops *ops,
                       struct ipc_link **ret, uint64_t *ret_generation)
{
    CLEANUP(freep) char *url = xasprintf("ipc://%s/%s", n->dir, name);
    struct ipc_link_args args = {
        .loop = n->c->loop, .name = name, .url = url, .ops = ops, .user = n};

    *ret_generation = ++last_generation;
    cr_assert_eq(ipc_link_start(&args, ret), 0);
}

void node_stored_start(struct node *n)
{
    link_start(n, "raftd.stored", &stored_ops, &n->stored, &n->stored_generation);
}

void node_stored_stop(struct node *n)
{
    ipc_link_stop(n->stored, 0);
    n->stored = NULL;
    stored_on_down(n);
}

void node_gateway_start(struct node *n)
{
    link_start(n, "raftd.gw0", &gateway_ops, &n->gateway, &n->generation);
}

void node_gateway_stop(struct node *n)
{
    ipc_link_stop(n->gateway, 0);
    n->gateway = NULL;
    n->gateway_up = false;
}

void node_spawn(struct node *n, const char *initial_cluster, const char *state)
{
    CLEANUP(freep) char *path = xasprintf("%s/conf", n->dir);
    CLEANUP(freep) char *arg = xasprintf("--conf=%s", path);
    const char *program = getenv("RAFTD") != NULL ? getenv("RAFTD") : "raftd/raftd";
    CLEANUP(freep) char *control = NULL;
    char *argv[] = {(char *)(uintptr_t)program, arg, NULL, NULL};
    FILE *f = fopen(path, "w");
    int pair[2];

    cr_assert_not_null(f);
    fprintf(f,
            "name=n%d\nrun-dir=%s\ngeneration=%lu\ndata-dir=%s/data\ninitial-cluster=%s\n"
            "initial-cluster-state=%s\ninitial-advertise-peer-urls=%s\nlisten-peer-urls=%s\n"
            "advertise-client-urls=http://127.0.0.1:%d\nheartbeat-interval=20\n"
            "election-timeout=200\nlog-outputs=stderr\nlog-level=%s\n%s%s",
            n->i, n->dir, (unsigned long)++last_generation, n->dir, initial_cluster, state,
            n->peer_url, n->peer_url, 2379 + n->i,
            getenv("RAFTD_LOG") != NULL ? getenv("RAFTD_LOG") : "error",
            n->c->conf != NULL ? n->c->conf : "", n->extra_conf);
    fclose(f);
    /* its end ends the daemon, also when this test dies */
    cr_assert_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    fcntl(pair[0], F_SETFD, FD_CLOEXEC);
    control = xasprintf("--control-fd=%d", pair[1]);
    argv[2] = control;
    if (n->control_fd > 0)
        close(n->control_fd);
    n->control_fd = pair[0];
    cr_assert_eq(posix_spawn(&n->pid, program, NULL, NULL, argv, environ), 0, "cannot start %s",
                 program);
    close(pair[1]);
}

static char *initial_cluster_of(struct cluster *c)
{
    char *text = xstrdup("");

    for (int i = 0; i < c->count; i++) {
        char *longer = xasprintf("%s%sn%d=%s", text, i != 0 ? "," : "", i, c->nodes[i].peer_url);

        free(text);
        text = longer;
    }
    return text;
}

void node_start(struct node *n)
{
    CLEANUP(freep) char *text = initial_cluster_of(n->c);

    node_start_existing(n, text);
}

void node_start_existing(struct node *n, const char *initial_cluster)
{
    node_spawn(n, initial_cluster, n->i < n->c->count ? "new" : "existing");
    if (n->stored == NULL)
        node_stored_start(n);
    if (n->gateway == NULL)
        node_gateway_start(n);
}

void node_kill(struct node *n, int sig)
{
    if (sig == SIGTERM)
        cr_assert_eq(send(n->control_fd, "STOP", 4, 0), 4);
    else
        kill(n->pid, sig);
    if (sig != SIGKILL && sig != SIGTERM)
        return;
    waitpid(n->pid, &n->exit_status, 0);
    n->pid = 0;
}

bool node_exited(struct node *n)
{
    if (n->pid != 0 && waitpid(n->pid, &n->exit_status, WNOHANG) == n->pid)
        n->pid = 0;
    return n->pid == 0;
}

/* ---- cluster ---- */

static int free_port(void)
{
    struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0), port;

    cr_assert_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    port = ntohs(addr.sin_port);
    close(fd);
    return port;
}

struct cluster *cluster_new(int count, const char *conf)
{
    struct cluster *c = xcalloc(1, sizeof(*c));

    strcpy(c->dir, "/tmp/conclave-test-raftd-XXXXXX");
    cr_assert_not_null(mkdtemp(c->dir));
    c->loop = loop_new();
    c->count = count;
    c->conf = conf;
    for (int i = 0; i < NODES_MAX; i++) {
        struct node *n = &c->nodes[i];

        n->c = c;
        n->i = i;
        snprintf(n->dir, sizeof(n->dir), "%s/n%d", c->dir, i);
        cr_assert_eq(mkdir(n->dir, 0700), 0);
        snprintf(n->peer_url, sizeof(n->peer_url), "http://127.0.0.1:%d", free_port());
    }
    return c;
}

void cluster_free(struct cluster *c)
{
    CLEANUP(freep) char *command = xasprintf("rm -rf %s", c->dir);

    for (int i = 0; i < NODES_MAX; i++) {
        struct node *n = &c->nodes[i];

        if (n->pid != 0)
            node_kill(n, SIGKILL);
        if (n->stored != NULL)
            node_stored_stop(n);
        if (n->gateway != NULL)
            node_gateway_stop(n);
        if (n->control_fd > 0)
            close(n->control_fd);
        raftd_members_fini(&n->state.members);
        raftd_members_fini(&n->in_state.members);
    }
    loop_free(c->loop);
    if (system(command) != 0)
        cr_log_warn("%s stays", c->dir);
    free(c);
}

struct node *cluster_leader(struct cluster *c)
{
    for (int i = 0; i < NODES_MAX; i++) {
        struct node *n = &c->nodes[i];
        int agree = 0, running = 0;

        if (n->pid == 0 || !n->stored_up || n->role.state != PROTO_RAFT_LEADER)
            continue;
        for (int k = 0; k < NODES_MAX; k++) {
            if (c->nodes[k].pid != 0) {
                running++;
                agree += c->nodes[k].stored_up && c->nodes[k].role.leader_id == n->member_id &&
                         c->nodes[k].role.term == n->role.term;
            }
        }
        if (agree * 2 > running)
            return n;
    }
    return NULL;
}

uint64_t node_propose(struct node *n, enum proto_kind kind, struct bytes body)
{
    uint64_t id = ++n->c->last_request;
    struct proto_payload p = {.kind = kind,
                              .origin_member = n->member_id,
                              .origin_generation = n->generation,
                              .request_id = id,
                              .body = body};
    struct buf *b;

    cr_assert_lt(id, REQUESTS_MAX);
    b = ipc_link_begin(n->gateway, PROTO_PROPOSE, id);
    if (b == NULL) {
        n->c->failed[id] = OUT_TIMEOUT_CONN_LOST;
        return id;
    }
    proto_payload_encode(b, &p);
    ipc_link_end(n->gateway);
    return id;
}

int node_move_leader(struct node *n, uint64_t member)
{
    uint64_t id = ++n->c->last_request;
    struct buf *b = ipc_link_begin(n->gateway, PROTO_RAFT_CALL, id);

    cr_assert_not_null(b);
    n->c->called[id] = -1;
    proto_raft_call_encode(
        b, &(struct proto_raft_call){.op = PROTO_RAFT_MOVE_LEADER, .member = member});
    ipc_link_end(n->gateway);
    WAIT(n->c, n->c->called[id] != -1);
    return n->c->called[id];
}

bool request_settled(struct cluster *c, uint64_t id)
{
    return c->done[id] != 0 || c->failed[id] != 0;
}

void node_barrier(struct node *n)
{
    ipc_link_send(n->stored, PROTO_READ_BARRIER, ++n->barrier_sent, BYTES_EMPTY);
}

bool cluster_converged(struct cluster *c)
{
    for (int i = 0; i < NODES_MAX; i++) {
        if (c->nodes[i].pid != 0 && c->nodes[i].state.applied != c->log_last)
            return false;
    }
    return true;
}
