/* member add, remove, update, list, promote. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/util/buf.h"
#include "lib/util/url.h"
#include "lib/util/xmalloc.h"

static uint64_t member_id(const struct ctl_args *a)
{
    uint64_t id;
    char *why = NULL;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "member ID is not provided");
    if (ctl_parse_uint(a->argv[0], 16, &id, &why) != 0)
        ctl_die(CTL_EXIT_BAD_ARGS, "bad member ID arg (%s), expecting ID in Hex", why);
    return id;
}

/* "a,b" as a list that lives until the process ends. */
static char **split_urls(const char *text, size_t *ret_count)
{
    struct url_list list;
    char *why = NULL;

    if (url_list_parse(bytes_str(text), &list, &why) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", why);
    *ret_count = list.count;
    return list.items;
}

static char *join(char *const *texts, size_t count, const char *between)
{
    struct buf out = BUF_INIT;

    for (size_t i = 0; i < count; i++)
        buf_appendf(&out, "%s%s", i > 0 ? between : "", texts[i]);
    buf_append_u8(&out, 0);
    return (char *)out.data;
}

static uint64_t cluster_of(const Etcdserverpb__ResponseHeader *header)
{
    return header != NULL ? header->cluster_id : 0;
}

/* ---- add ---- */

static void print_added(const Etcdserverpb__MemberAddResponse *r, const char *name)
{
    struct buf cluster CLEANUP(buf_fini) = BUF_INIT;
    CLEANUP(freep) char *urls = join(r->member->peerurls, r->member->n_peerurls, ",");

    printf("Member %16" PRIx64 " added to cluster %16" PRIx64 "\n", r->member->id,
           cluster_of(r->header));
    for (size_t i = 0; i < r->n_members; i++)
        for (size_t j = 0; j < r->members[i]->n_peerurls; j++)
            buf_appendf(&cluster, "%s%s=%s", cluster.len > 0 ? "," : "",
                        r->members[i]->id == r->member->id ? name : r->members[i]->name,
                        r->members[i]->peerurls[j]);
    printf("\nETCD_NAME=\"%s\"\n", name);
    printf("ETCD_INITIAL_CLUSTER=\"%.*s\"\n", (int)cluster.len, cluster.data);
    printf("ETCD_INITIAL_ADVERTISE_PEER_URLS=\"%s\"\n", urls);
    puts("ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
}

static int run_add(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__MemberAddRequest request = ETCDSERVERPB__MEMBER_ADD_REQUEST__INIT;
    Etcdserverpb__MemberAddResponse *r;
    const char *urls = ctl_args_string(a, "peer-urls");

    if (a->argc < 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "member name not provided");
    if (a->argc > 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "too many arguments%s%s",
                strncmp(a->argv[1], "http", 4) == 0 ? ", did you mean --peer-urls=" : "",
                strncmp(a->argv[1], "http", 4) == 0 ? a->argv[1] : "");
    if (*urls == '\0')
        ctl_die(CTL_EXIT_BAD_ARGS, "member peer urls not provided");
    request.peerurls = split_urls(urls, &request.n_peerurls);
    request.islearner = ctl_args_bool(a, "learner");
    r = ctl_ask(c, &ctl_method_member_add, &request);
    if (r->member == NULL)
        ctl_die(CTL_EXIT_ERROR, "the answer makes no sense");
    if (!print_encoded_or_simple(c, r))
        print_added(r, a->argv[0]);
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag add_flags[] = {
    CTL_BOOL("learner", "indicates if the new member is raft learner"),
    CTL_STRING("peer-urls", "", "comma separated peer URLs for the new member."), CTL_FLAGS_END};
static const struct ctl_command cmd_add = {.use = "add <memberName> [options]",
                                           .summary = "Adds a member into the cluster",
                                           .flags = add_flags,
                                           .run = run_add};

/* ---- remove, update, promote ---- */

static int print_change(const struct ctl *c, void *answer, uint64_t id, const char *what,
                        const Etcdserverpb__ResponseHeader *header)
{
    print_done(c, answer, "Member %16" PRIx64 " %s cluster %16" PRIx64, id, what,
               cluster_of(header));
    return CTL_EXIT_SUCCESS;
}

static int run_remove(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__MemberRemoveRequest request = ETCDSERVERPB__MEMBER_REMOVE_REQUEST__INIT;
    Etcdserverpb__MemberRemoveResponse *r;

    request.id = member_id(a);
    r = ctl_ask(c, &ctl_method_member_remove, &request);
    return print_change(c, r, request.id, "removed from", r->header);
}

static const struct ctl_command cmd_remove = {
    .use = "remove <memberID>", .summary = "Removes a member from the cluster", .run = run_remove};

static int run_update(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__MemberUpdateRequest request = ETCDSERVERPB__MEMBER_UPDATE_REQUEST__INIT;
    Etcdserverpb__MemberUpdateResponse *r;
    const char *urls = ctl_args_string(a, "peer-urls");

    request.id = member_id(a);
    if (*urls == '\0')
        ctl_die(CTL_EXIT_BAD_ARGS, "member peer urls not provided");
    request.peerurls = split_urls(urls, &request.n_peerurls);
    r = ctl_ask(c, &ctl_method_member_update, &request);
    return print_change(c, r, request.id, "updated in", r->header);
}

static const struct ctl_flag update_flags[] = {
    CTL_STRING("peer-urls", "", "comma separated peer URLs for the updated member."),
    CTL_FLAGS_END};
static const struct ctl_command cmd_update = {.use = "update <memberID> [options]",
                                              .summary = "Updates a member in the cluster",
                                              .flags = update_flags,
                                              .run = run_update};

static int run_promote(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__MemberPromoteRequest request = ETCDSERVERPB__MEMBER_PROMOTE_REQUEST__INIT;
    Etcdserverpb__MemberPromoteResponse *r;

    request.id = member_id(a);
    r = ctl_ask(c, &ctl_method_member_promote, &request);
    return print_change(c, r, request.id, "promoted in", r->header);
}

static const struct ctl_command cmd_promote = {
    .use = "promote <memberID>",
    .summary = "Promotes a non-voting member in the cluster",
    .description = "Promotes a non-voting learner member to a voting one in the cluster.",
    .run = run_promote};

/* ---- list ---- */

static void list_fields(const Etcdserverpb__MemberListResponse *r)
{
    print_header_fields(r->header);
    for (size_t i = 0; i < r->n_members; i++) {
        const Etcdserverpb__Member *m = r->members[i];

        printf("\"ID\" : %" PRIu64 "\n", m->id);
        print_quoted_field("", "Name", m->name, strlen(m->name));
        for (size_t j = 0; j < m->n_peerurls; j++)
            print_quoted_field("", "PeerURL", m->peerurls[j], strlen(m->peerurls[j]));
        for (size_t j = 0; j < m->n_clienturls; j++)
            print_quoted_field("", "ClientURL", m->clienturls[j], strlen(m->clienturls[j]));
        printf("\"IsLearner\" : %s\n\n", m->islearner ? "true" : "false");
    }
}

enum { LIST_COLUMNS = 6 };

static void list_rows(const Etcdserverpb__MemberListResponse *r, bool table)
{
    static const char *const headers[LIST_COLUMNS] = {"ID",         "STATUS",       "NAME",
                                                      "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER"};
    char **cells = xcalloc(r->n_members * LIST_COLUMNS + 1, sizeof(*cells));

    for (size_t i = 0; i < r->n_members; i++) {
        const Etcdserverpb__Member *m = r->members[i];
        char **row = cells + i * LIST_COLUMNS;

        row[0] = xasprintf("%" PRIx64, m->id);
        row[1] = xstrdup(*m->name == '\0' ? "unstarted" : "started");
        row[2] = xstrdup(m->name);
        row[3] = join(m->peerurls, m->n_peerurls, ",");
        row[4] = join(m->clienturls, m->n_clienturls, ",");
        row[5] = xstrdup(m->islearner ? "true" : "false");
        if (!table)
            printf("%s, %s, %s, %s, %s, %s\n", row[0], row[1], row[2], row[3], row[4], row[5]);
    }
    if (table)
        print_table(headers, LIST_COLUMNS, cells, r->n_members);
    ctl_words_free(cells, r->n_members * LIST_COLUMNS);
}

static void json_urls(const char *name, char *const *urls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (i == 0)
            printf(",\"%s\":[", name);
        else
            putchar(',');
        ctl_text_json_string(stdout, urls[i]);
    }
    if (count > 0)
        putchar(']');
}

/* --hex: ids as hexadecimal strings, and etcdctl's spelling of clientURLS. */
static void list_hex_json(const Etcdserverpb__MemberListResponse *r)
{
    printf("{\"header\":{\"cluster_id\":\"%" PRIx64 "\",\"member_id\":\"%" PRIx64
           "\",\"raft_term\":%" PRIu64 "},\"members\":[",
           cluster_of(r->header), r->header != NULL ? r->header->member_id : 0,
           r->header != NULL ? r->header->raft_term : 0);
    for (size_t i = 0; i < r->n_members; i++) {
        const Etcdserverpb__Member *m = r->members[i];

        printf("%s{\"ID\":\"%" PRIx64 "\"", i > 0 ? "," : "", m->id);
        if (*m->name != '\0') {
            fputs(",\"name\":", stdout);
            ctl_text_json_string(stdout, m->name);
        }
        json_urls("peerURLs", m->peerurls, m->n_peerurls);
        json_urls("clientURLS", m->clienturls, m->n_clienturls);
        fputs(m->islearner ? ",\"isLearner\":true}" : "}", stdout);
    }
    puts("]}");
}

static int run_list(struct ctl *c, struct ctl_args *a)
{
    Etcdserverpb__MemberListRequest request = ETCDSERVERPB__MEMBER_LIST_REQUEST__INIT;
    const char *consistency = ctl_args_string(a, "consistency");
    Etcdserverpb__MemberListResponse *r;

    if (strcmp(consistency, "l") == 0)
        request.linearizable = true;
    else if (strcmp(consistency, "s") != 0)
        ctl_die(CTL_EXIT_BAD_FEATURE, "unknown consistency flag \"%s\"", consistency);
    r = ctl_ask(c, &ctl_method_member_list, &request);
    if (c->hex && c->format == CTL_FORMAT_JSON)
        list_hex_json(r);
    else if (print_encoded(c, r))
        ;
    else if (c->format == CTL_FORMAT_FIELDS)
        list_fields(r);
    else
        list_rows(r, c->format == CTL_FORMAT_TABLE);
    ctl_answer_free(r);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag list_flags[] = {
    CTL_STRING("consistency", "l", "Linearizable(l) or Serializable(s)"), CTL_FLAGS_END};
static const struct ctl_command cmd_list = {
    .use = "list",
    .summary = "Lists all members in the cluster",
    .description = "Prints one line per member:\n"
                   "ID, Status, Name, Peer Addrs, Client Addrs, Is Learner.",
    .flags = list_flags,
    .run = run_list};

static const struct ctl_command *const children[] = {&cmd_add,  &cmd_remove,  &cmd_update,
                                                     &cmd_list, &cmd_promote, NULL};
const struct ctl_command cmd_member = {
    .use = "member <subcommand>", .summary = "Membership related commands", .children = children};
