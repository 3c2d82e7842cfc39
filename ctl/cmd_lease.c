/* lease grant, revoke, timetolive, list, keep-alive. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_keepalive.h"
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

static int64_t lease_id(const char *text)
{
    char *why = NULL;
    int64_t id;

    if (ctl_parse_int(text, 16, &id, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "bad lease ID arg (%s), expecting ID in Hex", why);
    return id;
}

/* The answer, or the end: in etcdctl's words for `what` ("grant"), or in the server's for NULL. */
static void *ask(struct ctl *c, const struct ctl_method *method, const void *request,
                 const char *what)
{
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};

    if (ctl_try(c, method, request, &answer, &error) == 0)
        return answer;
    if (what != NULL)
        ctl_die(CTL_EXIT_ERROR, "failed to %s lease (%s)", what, error.message);
    ctl_die(CTL_EXIT_BAD_CONNECTION, "%s", error.message);
}

/* "{" and the header's fields: these answers have them inline. */
static void json_open(const Etcdserverpb__ResponseHeader *header)
{
    putchar('{');
    if (header != NULL && ctl_json_fields(stdout, &header->base))
        putchar(',');
}

/* ---- grant ---- */

static int run_grant(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    Etcdserverpb__LeaseGrantResponse *r;
    char *why = NULL;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "lease grant command needs TTL argument");
    if (ctl_parse_int(a->argv[0], 10, &request.ttl, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "bad TTL (%s)", why);
    r = ask(c, &ctl_method_lease_grant, &request, "grant");
    if (c->format == CTL_FORMAT_JSON) {
        json_open(r->header);
        printf("\"ID\":%" PRId64 ",\"TTL\":%" PRId64 ",\"Error\":", r->id, r->ttl);
        ctl_text_json_string(stdout, r->error);
        puts("}");
    } else if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        printf("\"ID\" : %" PRId64 "\n\"TTL\" : %" PRId64 "\n", r->id, r->ttl);
    } else if (c->format == CTL_FORMAT_PROTOBUF) {
        print_header_encoded(c, r->header);
    } else if (c->format == CTL_FORMAT_TABLE) {
        print_unsupported(c);
    } else {
        printf("lease %016" PRIx64 " granted with TTL(%" PRId64 "s)\n", r->id, r->ttl);
    }
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_grant = {
    .use = "grant <ttl>", .summary = "Creates leases", .run = run_grant};

/* ---- revoke ---- */

static int run_revoke(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
    Etcdserverpb__LeaseRevokeResponse *r;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "lease revoke command needs 1 argument");
    request.id = lease_id(a->argv[0]);
    r = ask(c, &ctl_method_lease_revoke, &request, "revoke");
    if (print_encoded_or_lines(c, r))
        ;
    else if (c->format == CTL_FORMAT_FIELDS)
        print_header_fields(r->header);
    else
        printf("lease %016" PRIx64 " revoked\n", request.id);
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_revoke = {
    .use = "revoke <leaseID>", .summary = "Revokes leases", .run = run_revoke};

/* ---- timetolive ---- */

static void ttl_json(const Etcdserverpb__LeaseTimeToLiveResponse *r)
{
    json_open(r->header);
    printf("\"id\":%" PRId64 ",\"ttl\":%" PRId64 ",\"granted-ttl\":%" PRId64 ",\"keys\":", r->id,
           r->ttl, r->grantedttl);
    if (r->n_keys == 0)
        fputs("null", stdout);
    for (size_t i = 0; i < r->n_keys; i++) {
        fputs(i == 0 ? "[\"" : ",\"", stdout);
        ctl_text_base64(stdout, r->keys[i].data, r->keys[i].len);
        putchar('"');
    }
    puts(r->n_keys > 0 ? "]}" : "}");
}

static void ttl_simple(const Etcdserverpb__LeaseTimeToLiveResponse *r, bool keys)
{
    if (r->grantedttl == 0 && r->ttl == -1) {
        printf("lease %016" PRIx64 " already expired\n", r->id);
        return;
    }
    printf("lease %016" PRIx64 " granted with TTL(%" PRId64 "s), remaining(%" PRId64 "s)", r->id,
           r->grantedttl, r->ttl);
    if (keys) {
        fputs(", attached keys([", stdout);
        for (size_t i = 0; i < r->n_keys; i++) {
            fputs(i > 0 ? " " : "", stdout);
            fwrite(r->keys[i].data, 1, r->keys[i].len, stdout);
        }
        fputs("])", stdout);
    }
    putchar('\n');
}

static int run_timetolive(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__LeaseTimeToLiveRequest request = ETCDSERVERPB__LEASE_TIME_TO_LIVE_REQUEST__INIT;
    Etcdserverpb__LeaseTimeToLiveResponse *r;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "lease timetolive command needs lease ID as argument");
    request.id = lease_id(a->argv[0]);
    request.keys = ctl_args_bool(a, "keys");
    r = ask(c, &ctl_method_lease_ttl, &request, NULL);
    if (c->format == CTL_FORMAT_JSON) {
        ttl_json(r);
    } else if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        printf("\"ID\" : %" PRId64 "\n\"TTL\" : %" PRId64 "\n\"GrantedTTL\" : %" PRId64 "\n", r->id,
               r->ttl, r->grantedttl);
        for (size_t i = 0; i < r->n_keys; i++)
            print_quoted_field("", "Key", r->keys[i].data, r->keys[i].len);
    } else if (c->format == CTL_FORMAT_PROTOBUF) {
        print_header_encoded(c, r->header);
    } else if (c->format == CTL_FORMAT_TABLE) {
        print_unsupported(c);
    } else {
        ttl_simple(r, request.keys);
    }
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag timetolive_flags[] = {
    CTL_BOOL("keys", "Get keys attached to this lease"), CTL_FLAGS_END};
static const struct ctl_command cmd_timetolive = {.use = "timetolive <leaseID> [options]",
                                                  .summary = "Get lease information",
                                                  .flags = timetolive_flags,
                                                  .run = run_timetolive};

/* ---- list ---- */

static int run_list(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__LeaseLeasesRequest request = ETCDSERVERPB__LEASE_LEASES_REQUEST__INIT;
    Etcdserverpb__LeaseLeasesResponse *r;

    r = ask(c, &ctl_method_lease_list, &request, NULL);
    if (c->format == CTL_FORMAT_JSON) {
        json_open(r->header);
        fputs("\"leases\":[", stdout);
        for (size_t i = 0; i < r->n_leases; i++)
            printf("%s{\"id\":%" PRId64 "}", i > 0 ? "," : "", r->leases[i]->id);
        puts("]}");
    } else if (c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        for (size_t i = 0; i < r->n_leases; i++)
            printf("\"ID\" : %" PRId64 "\n", r->leases[i]->id);
    } else if (c->format == CTL_FORMAT_PROTOBUF) {
        print_marshal_unsupported("clientv3.LeaseLeasesResponse");
    } else if (c->format == CTL_FORMAT_TABLE) {
        print_unsupported(c);
    } else {
        printf("found %zu leases\n", r->n_leases);
        for (size_t i = 0; i < r->n_leases; i++)
            printf("%016" PRIx64 "\n", r->leases[i]->id);
    }
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_list = {
    .use = "list", .summary = "List all active leases", .run = run_list};

/* ---- keep-alive ---- */

struct keeping {
    const struct ctl *c;
    bool once, alive, lost;
};

static void on_alive(void *user, const Etcdserverpb__LeaseKeepAliveResponse *r)
{
    struct keeping *k = user;

    k->alive = true;
    if (k->c->format == CTL_FORMAT_JSON) {
        json_open(r->header);
        printf("\"ID\":%" PRId64 ",\"TTL\":%" PRId64 "}\n", r->id, r->ttl);
    } else if (k->c->format == CTL_FORMAT_FIELDS) {
        print_header_fields(r->header);
        printf("\"ID\" : %" PRId64 "\n\"TTL\" : %" PRId64 "\n", r->id, r->ttl);
    } else if (k->c->format == CTL_FORMAT_PROTOBUF) {
        print_marshal_unsupported("clientv3.LeaseKeepAliveResponse");
    } else if (k->c->format == CTL_FORMAT_TABLE) {
        print_unsupported(k->c);
    } else {
        printf("lease %016" PRIx64 " keepalived with TTL(%" PRId64 ")\n", r->id, r->ttl);
    }
    fflush(stdout);
}

static void on_lost(void *user)
{
    struct keeping *k = user;

    k->lost = true;
}

static int run_keep_alive(struct ctl *c, struct ctl_args *a)
{
    static const struct ctl_keepalive_handler handler = {.on_alive = on_alive, .on_lost = on_lost};
    struct keeping keeping = {.c = c, .once = ctl_args_bool(a, "once")};
    struct ctl_keepalive *k;
    int64_t id;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "lease keep-alive command needs lease ID as argument");
    id = lease_id(a->argv[0]);
    k = ctl_keepalive_new(c->loop, ctl_connect(c), id, keeping.once ? 0 : 10, &handler, &keeping);
    while (!keeping.lost && !(keeping.once && keeping.alive))
        loop_run_once(c->loop, 1000);
    if (keeping.lost && keeping.once)
        ctl_die(CTL_EXIT_BAD_CONNECTION, "etcdserver: requested lease not found");
    if (keeping.lost)
        printf("lease %016" PRIx64 " expired or revoked.\n", id);
    ctl_keepalive_free(k);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag keep_alive_flags[] = {
    CTL_BOOL("once", "Resets the keep-alive time to its original value and exits immediately"),
    CTL_FLAGS_END};
static const struct ctl_command cmd_keep_alive = {.use = "keep-alive [options] <leaseID>",
                                                  .summary = "Keeps leases alive (renew)",
                                                  .flags = keep_alive_flags,
                                                  .run = run_keep_alive};

static const struct ctl_command *const children[] = {&cmd_grant, &cmd_revoke,     &cmd_timetolive,
                                                     &cmd_list,  &cmd_keep_alive, NULL};
const struct ctl_command cmd_lease = {
    .use = "lease <subcommand>", .summary = "Lease related commands", .children = children};
