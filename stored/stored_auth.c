/*
 * A job takes copies of what it needs, so that it may outlive the link and the gatewayd that asked,
 * and the keyspace it asked about. At most AUTH_JOBS_RUNNING of each sort are with the workers
 * (there are few, and files are synced by them too); more wait, and beyond AUTH_JOBS_WAITING_MAX
 * callers are told to come back. Verifying a JWT is fast, so it has a queue of its own and never
 * stands behind passwords.
 */
#include "stored/stored_auth.h"

#include <errno.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "stored/auth/auth_jwt.h"
#include "stored/auth/auth_password.h"
#include "stored/kv/kv_auth.h"
#include "stored/stored.h"

enum {
    AUTH_JOBS_RUNNING = 2,
    AUTH_JOBS_WAITING_MAX = 1000,
    AUTH_KEY_RETRY_MS = 500,
    /* How long gatewayd may go by one answer. A simple token is asked for at least this often,
     * which is what its use is counted by; changes of auth are told at once. */
    IDENTITY_MS_MAX = 60000,
    SIMPLE_IDENTITY_MS_MAX = 1000,
    PASSWORD_BYTES_KEPT = 4096, /* longer ones fit nobody */
};

/* Some bcrypt hash: a user that does not exist costs a caller the same time as one that does. */
static const char nobodys_hash[] =
    "abcdefghijklmnopqrstuuxozHNa8sOHEZwaidkaMalAhHhvIut0S"; /* behind the cost */

enum job_type { JOB_LOGIN, JOB_HASH, JOB_JWT };

struct stored_auth_queue {
    struct list waiting; /* struct stored_auth_job.node */
    size_t waiting_count;
    unsigned int running;
};

struct stored_auth {
    struct auth_jwt *jwt; /* NULL: simple tokens */
    uint64_t ttl_ms;      /* simple tokens */
    unsigned int cost;
    struct stored_auth_queue passwords, tokens;
    struct list jobs; /* all, by struct stored_auth_job.all */
    uint64_t told_generation;
    struct loop_timer *key_timer; /* active: a key was proposed */
};

struct stored_auth_job {
    struct list node, all;
    struct stored *s;     /* NULL: stored is gone */
    struct auth_jwt *jwt; /* a reference */
    enum job_type type;
    unsigned int cost;
    uint32_t gateway;
    uint64_t generation, request_id;
    struct buf secret;  /* password or token */
    struct buf hash;    /* of the password; the result of JOB_HASH */
    struct buf name;    /* of the user */
    struct buf token;   /* JOB_LOGIN: the JWT made */
    uint64_t revision;  /* of auth: when the hash was looked up, or of the JWT */
    uint64_t expires_s; /* JOB_JWT */
    uint64_t now_s;
    int outcome;
};

static uint64_t wall_clock_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec;
}

/* ---- jobs ---- */

static void job_free(struct stored_auth_job *job)
{
    list_remove(&job->all);
    auth_secret_fini(&job->secret);
    auth_secret_fini(&job->hash);
    auth_secret_fini(&job->token);
    buf_fini(&job->name);
    auth_jwt_unref(job->jwt);
    free(job);
}

static void run_login(struct stored_auth_job *job)
{
    struct auth_jwt_claims claims;

    if (!auth_password_matches(buf_bytes(&job->secret), buf_bytes(&job->hash))) {
        job->outcome = OUT_AUTH_FAILED;
        return;
    }
    if (job->jwt == NULL || job->name.len == 0)
        return;
    claims = (struct auth_jwt_claims){.username = buf_bytes(&job->name),
                                      .revision = job->revision,
                                      .expires_s = job->now_s + auth_jwt_ttl_s(job->jwt)};
    if (!auth_jwt_sign(job->jwt, &claims, &job->token))
        job->outcome = OUT_INTERNAL;
}

static void run_jwt(struct stored_auth_job *job)
{
    struct auth_jwt_claims claims;

    if (!auth_jwt_verify(job->jwt, buf_bytes(&job->secret), job->now_s, &job->name, &claims)) {
        job->outcome = OUT_INVALID_AUTH_TOKEN;
        return;
    }
    job->revision = claims.revision;
    job->expires_s = claims.expires_s;
}

static void job_run(void *arg)
{
    struct stored_auth_job *job = arg;

    switch (job->type) {
    case JOB_LOGIN:
        run_login(job);
        break;
    case JOB_HASH:
        job->outcome = auth_password_hash(buf_bytes(&job->secret), job->cost, &job->hash);
        break;
    case JOB_JWT:
        run_jwt(job);
        break;
    }
}

static struct stored_auth_queue *queue_of(struct stored *s, const struct stored_auth_job *job)
{
    return job->type == JOB_JWT ? &s->auth->tokens : &s->auth->passwords;
}

static void job_done(void *arg);

static void start_jobs(struct stored *s, struct stored_auth_queue *q)
{
    while (q->running < AUTH_JOBS_RUNNING && !list_empty(&q->waiting)) {
        struct stored_auth_job *job =
            LIST_ENTRY(list_pop_front(&q->waiting), struct stored_auth_job, node);

        q->waiting_count--;
        q->running++;
        loop_submit(s->loop, &(struct loop_job){.run = job_run, .done = job_done, .arg = job});
    }
}

static struct stored_auth_job *job_new(struct stored_gateway *gw, uint64_t id, enum job_type type,
                                       struct bytes secret)
{
    struct stored_auth_job *job = xcalloc(1, sizeof(*job));
    struct stored *s = gw->s;

    list_init(&job->node);
    list_push_back(&s->auth->jobs, &job->all);
    job->s = s;
    job->jwt = auth_jwt_ref(s->auth->jwt);
    job->type = type;
    job->cost = s->auth->cost;
    job->gateway = gw->index;
    job->generation = gw->generation;
    job->request_id = id;
    job->now_s = wall_clock_s();
    job->outcome = OUT_OK;
    buf_append_bytes(&job->secret, secret);
    return job;
}

/* Takes the job. -EINPROGRESS or an outcome. */
static int job_submit(struct stored *s, struct stored_auth_job *job)
{
    struct stored_auth_queue *q = queue_of(s, job);

    if (q->waiting_count >= AUTH_JOBS_WAITING_MAX) {
        job_free(job);
        return OUT_TOO_MANY_REQUESTS;
    }
    list_push_back(&q->waiting, &job->node);
    q->waiting_count++;
    start_jobs(s, q);
    return -EINPROGRESS;
}

/* ---- answers ---- */

static void put_identity(struct buf *out, struct bytes stamp, uint64_t valid_ms)
{
    proto_auth_identity_encode(
        out, &(struct proto_auth_identity){.valid_ms = (uint32_t)valid_ms, .stamp = stamp});
}

/* Into s->scratch. */
static int vouch(struct stored *s, const struct auth_identity *who, uint64_t valid_ms)
{
    CLEANUP(buf_fini) struct buf stamp = BUF_INIT;
    int outcome = kv_auth_make_stamp(s->kv, who, &stamp);

    buf_clear(&s->scratch);
    if (outcome == OUT_OK)
        put_identity(&s->scratch, buf_bytes(&stamp), valid_ms);
    return outcome;
}

static int answer_jwt(struct stored *s, const struct stored_auth_job *job)
{
    struct auth_identity who = {.name = buf_bytes(&job->name), .revision = job->revision};
    uint64_t valid_ms = IDENTITY_MS_MAX, now_s = wall_clock_s();

    if (job->expires_s != 0) {
        if (job->expires_s <= now_s)
            return OUT_INVALID_AUTH_TOKEN;
        valid_ms = MIN(valid_ms, (job->expires_s - now_s) * 1000);
    }
    return vouch(s, &who, valid_ms);
}

static int answer_login(struct stored *s, const struct stored_auth_job *job)
{
    struct auth_identity who = {.name = buf_bytes(&job->name), .revision = job->revision};
    struct kv_header header = stored_header(s);
    CLEANUP(buf_fini) struct buf stamp = BUF_INIT;
    CLEANUP(buf_fini) struct buf response = BUF_INIT;
    int outcome;

    if (job->name.len == 0)
        return OUT_AUTH_FAILED; /* nobody's hash does not count */
    if (kv_auth_store(s->kv)->revision != job->revision)
        return OUT_AUTH_OLD_REVISION; /* gatewayd asks again */
    outcome = kv_auth_make_stamp(s->kv, &who, &stamp);
    if (outcome != OUT_OK)
        return outcome;
    kv_auth_put_header(s->kv, &header, &response);
    buf_clear(&s->scratch);
    proto_auth_login_encode(&s->scratch,
                            &(struct proto_auth_login){.stamp = buf_bytes(&stamp),
                                                       .token = buf_bytes(&job->token),
                                                       .response = buf_bytes(&response)});
    return OUT_OK;
}

static void answer(struct stored *s, const struct stored_auth_job *job)
{
    struct stored_gateway *gw = &s->gateways[job->gateway];
    int outcome = job->outcome;

    if (gw->generation != job->generation || s->stopping || s->kv == NULL)
        return;
    if (outcome == OUT_OK) {
        buf_clear(&s->scratch);
        switch (job->type) {
        case JOB_LOGIN:
            outcome = answer_login(s, job);
            break;
        case JOB_HASH:
            buf_append_bytes(&s->scratch, buf_bytes(&job->hash));
            break;
        case JOB_JWT:
            outcome = answer_jwt(s, job);
            break;
        }
    }
    stored_send_result(gw, job->request_id, outcome,
                       outcome == OUT_OK ? buf_bytes(&s->scratch) : BYTES_EMPTY);
}

static void job_done(void *arg)
{
    struct stored_auth_job *job = arg;
    struct stored *s = job->s;
    struct stored_auth_queue *q;

    if (s != NULL) {
        q = queue_of(s, job);
        q->running--;
        answer(s, job);
        start_jobs(s, q);
    }
    job_free(job);
}

/* ---- requests ---- */

static int read_token(struct stored_gateway *gw, uint64_t id, struct bytes token)
{
    struct stored *s = gw->s;
    struct auth_tokens *tokens = kv_auth_tokens(s->kv);
    struct auth_identity who;

    if (s->auth->jwt != NULL)
        return job_submit(s, job_new(gw, id, JOB_JWT, token));
    auth_tokens_set_clock(tokens, loop_now_ms(s->loop));
    if (!auth_tokens_find(tokens, token, &who.name))
        return OUT_INVALID_AUTH_TOKEN;
    who.revision = kv_auth_store(s->kv)->revision;
    return vouch(s, &who, MIN(s->auth->ttl_ms / 4, (uint64_t)SIMPLE_IDENTITY_MS_MAX));
}

static int read_identity(struct stored_gateway *gw, uint64_t id, struct bytes body)
{
    struct stored *s = gw->s;
    struct proto_auth_claim claim;
    struct auth_identity who;

    if (proto_auth_claim_decode(body, &claim) != 0)
        return OUT_MALFORMED;
    if (!kv_auth_store(s->kv)->enabled) {
        put_identity(&s->scratch, BYTES_EMPTY, IDENTITY_MS_MAX);
        return OUT_OK;
    }
    if (claim.type == PROTO_AUTH_CLAIM_TOKEN)
        return read_token(gw, id, claim.value);
    /* whether there is such a user is asked with each operation, as in etcd */
    who = (struct auth_identity){.name = claim.value, .revision = kv_auth_store(s->kv)->revision};
    return who.name.len == 0 ? OUT_USER_EMPTY : vouch(s, &who, IDENTITY_MS_MAX);
}

static int decode_login(struct bytes body, struct bytes *ret_name, struct bytes *ret_password)
{
    struct pb_reader r = pb_reader(body);
    struct pb_field f;

    *ret_name = *ret_password = BYTES_EMPTY;
    while (pb_next(&r, &f)) {
        if (f.number == 1 && f.type == PB_LENGTH)
            *ret_name = f.bytes;
        else if (f.number == 2 && f.type == PB_LENGTH)
            *ret_password = f.bytes;
    }
    return r.bad ? OUT_MALFORMED : OUT_OK;
}

static int read_login(struct stored_gateway *gw, uint64_t id, struct bytes body)
{
    struct stored *s = gw->s;
    const struct auth_store *a = kv_auth_store(s->kv);
    struct stored_auth_job *job;
    const struct auth_user *user;
    struct bytes name, password;
    int outcome = decode_login(body, &name, &password);

    if (outcome != OUT_OK)
        return outcome;
    if (!a->enabled)
        return OUT_AUTH_NOT_ENABLED;
    user = auth_store_user(a, name);
    if (user != NULL && user->no_password)
        return OUT_NO_PASSWORD_USER;
    if (s->auth->jwt != NULL && !auth_jwt_can_sign(s->auth->jwt))
        return OUT_AUTH_FAILED; /* a member with a public key only cannot issue tokens */
    if (password.len > PASSWORD_BYTES_KEPT)
        return OUT_AUTH_FAILED;
    job = job_new(gw, id, JOB_LOGIN, password);
    job->revision = a->revision;
    if (user != NULL) {
        buf_append_bytes(&job->name, name);
        buf_append_bytes(&job->hash, buf_bytes(&user->password));
    } else {
        buf_appendf(&job->hash, "$2b$%02u$%s", s->auth->cost, nobodys_hash);
    }
    return job_submit(s, job);
}

static int read_hash(struct stored_gateway *gw, uint64_t id, struct bytes password)
{
    if (password.len > AUTH_PASSWORD_BYTES_MAX)
        return OUT_PASSWORD_TOO_LONG;
    return job_submit(gw->s, job_new(gw, id, JOB_HASH, password));
}

int stored_auth_read(struct stored_gateway *gw, uint64_t id, enum proto_read_kind kind,
                     struct bytes body)
{
    switch (kind) {
    case PROTO_READ_AUTH_IDENTITY:
        return read_identity(gw, id, body);
    case PROTO_READ_AUTH_LOGIN:
        return read_login(gw, id, body);
    case PROTO_READ_AUTH_HASH:
        return read_hash(gw, id, body);
    default:
        return OUT_UNIMPLEMENTED;
    }
}

bool stored_auth_needs_barrier(struct stored *s, const struct proto_read *m)
{
    struct proto_auth_claim claim;
    struct kv_state state;
    uint64_t index;

    if (m->kind != PROTO_READ_AUTH_IDENTITY || s->auth->jwt != NULL || s->kv == NULL ||
        proto_auth_claim_decode(m->body, &claim) != 0 || claim.type != PROTO_AUTH_CLAIM_TOKEN ||
        !auth_token_index(claim.value, &index))
        return false;
    kv_get_state(s->kv, &state);
    return index > state.applied_index;
}

/* ---- telling gatewayd ---- */

static void tell(struct stored_gateway *gw)
{
    const struct auth_store *a = kv_auth_store(gw->s->kv);
    struct buf *b = ipc_link_begin(gw->link, PROTO_AUTH_CHANGED, 0);

    if (b == NULL)
        return; /* told when it comes back */
    proto_auth_state_encode(
        b, &(struct proto_auth_state){.enabled = a->enabled, .revision = a->revision});
    ipc_link_end(gw->link);
}

void stored_auth_tell(struct stored *s)
{
    uint64_t generation = kv_auth_generation(s->kv);

    if (LIKELY(generation == s->auth->told_generation))
        return;
    s->auth->told_generation = generation;
    for (uint64_t i = 0; i < s->conf->gateway_count; i++)
        if (s->gateways[i].generation != 0)
            tell(&s->gateways[i]);
}

void stored_auth_gateway_up(struct stored_gateway *gw)
{
    if (gw->s->kv != NULL)
        tell(gw);
}

/* ---- the key ---- */

static void on_key_timer(void *user)
{
    stored_auth_role(user);
}

void stored_auth_role(struct stored *s)
{
    uint8_t key[AUTH_KEY_BYTES];
    struct buf *b;

    if (LIKELY(s->kv == NULL || !kv_auth_needs_key(s->kv)) || !s->raftd_up || !s->have_role ||
        s->role.leader_id != s->member_id || loop_timer_active(s->auth->key_timer))
        return;
    if (RAND_bytes(key, (int)sizeof(key)) != 1)
        PANIC("there is no randomness");
    b = ipc_link_begin(s->raftd, PROTO_PROPOSE_OWN, 0);
    if (b != NULL) {
        proto_propose_own_encode(b,
                                 &(struct proto_propose_own){.kind = PROTO_KIND_AUTH_KEY,
                                                             .body = bytes_of(key, sizeof(key))});
        ipc_link_end(s->raftd);
    }
    explicit_bzero(key, sizeof(key));
    loop_timer_start(s->auth->key_timer, AUTH_KEY_RETRY_MS, 0);
}

void stored_auth_before_apply(struct stored *s)
{
    auth_tokens_set_clock(kv_auth_tokens(s->kv), loop_now_ms(s->loop));
}

/* ---- life ---- */

uint64_t stored_auth_token_ttl_ms(const struct stored *s)
{
    return s->auth->ttl_ms;
}

int stored_auth_init(struct stored *s)
{
    const char *spec = s->conf->auth_token != NULL ? s->conf->auth_token : "simple";
    CLEANUP(freep) char *error = NULL;
    struct stored_auth *auth = xcalloc(1, sizeof(*auth));

    s->auth = auth;
    list_init(&auth->jobs);
    list_init(&auth->passwords.waiting);
    list_init(&auth->tokens.waiting);
    auth->key_timer = loop_timer_new(s->loop, "auth key", on_key_timer, s);
    auth->ttl_ms = (s->conf->auth_token_ttl_s != 0 ? s->conf->auth_token_ttl_s : 300) * 1000;
    auth->cost = (unsigned int)s->conf->bcrypt_cost;
    if (auth->cost < AUTH_COST_MIN || auth->cost > AUTH_COST_MAX) {
        if (auth->cost != 0)
            log_warn("bcrypt-cost %u is outside %d to %d: using %d", auth->cost, AUTH_COST_MIN,
                     AUTH_COST_MAX, AUTH_COST_DEFAULT);
        auth->cost = AUTH_COST_DEFAULT;
    }
    if (strcmp(spec, "simple") == 0 || strncmp(spec, "simple,", 7) == 0 || spec[0] == '\0')
        return 0;
    if (strcmp(spec, "jwt") != 0 && strncmp(spec, "jwt,", 4) != 0) {
        log_error("auth-token \"%s\" is neither simple nor jwt,...", spec);
        return -EINVAL;
    }
    auth->jwt = auth_jwt_new(spec[3] == ',' ? spec + 4 : "", &error);
    if (auth->jwt == NULL) {
        log_error("auth-token: %s", error);
        return -EINVAL;
    }
    return 0;
}

void stored_auth_fini(struct stored *s)
{
    struct stored_auth *auth = s->auth;

    if (auth == NULL)
        return;
    LIST_FOREACH_SAFE(it, tmp, &auth->jobs)
    {
        struct stored_auth_job *job = LIST_ENTRY(it, struct stored_auth_job, all);

        job->s = NULL;
        list_remove(&job->all);
        if (!list_empty(&job->node)) { /* else a worker has it, and job_done frees it */
            list_remove(&job->node);
            job_free(job);
        }
    }
    loop_timer_free(auth->key_timer);
    auth_jwt_unref(auth->jwt);
    free(auth);
    s->auth = NULL;
}
