/* Who may be a member of which cluster, in etcd's words; and which membership changes are possible. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/wire/wire.h"
#include "raftd/raftd_bootstrap.h"

Test(bootstrap, parse)
{
    static const struct {
        const char *text, *out, *error;
    } rows[] = {
        {"default=http://localhost:2380", "default=http://localhost:2380", NULL},
        {"b=http://x:2,a=http://x:1", "a=http://x:1,b=http://x:2", NULL},
        {"a=http://x:2,a=http://x:1", "a=http://x:1,a=http://x:2", NULL},
        {" a=http://x:1 , b=http://x:2", "a=http://x:1,b=http://x:2", NULL},
        {"", NULL, "initial cluster unset and no discovery URL found"},
        {"a=http://x:1,b=http://x:1", NULL,
         "initial cluster a=http://x:1,b=http://x:1 has duplicate url"},
        {"a=http://x", NULL, "URL address does not have the form \"host:port\": http://x"},
        {"http://x:1", NULL, "empty URL given for \"http://x:1\""},
        {"a=", NULL, "empty URL given for \"a\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_cluster c;
        char *error = NULL, *text;
        int r = boot_cluster_parse(rows[i].text, &c, &error);

        if (rows[i].error != NULL) {
            cr_assert_neq(r, 0, "%s", rows[i].text);
            cr_expect_str_eq(error, rows[i].error);
            free(error);
            continue;
        }
        cr_assert_eq(r, 0, "%s: %s", rows[i].text, error);
        text = boot_cluster_text(&c);
        cr_expect_str_eq(text, rows[i].out);
        free(text);
        boot_cluster_fini(&c);
    }
}

Test(bootstrap, check)
{
    static const struct {
        const char *cluster, *name, *advertised, *error; /* error: how it begins */
    } rows[] = {
        {"a=http://127.0.0.1:1,b=http://127.0.0.1:2", "a", "http://127.0.0.1:1", NULL},
        {"a=http://localhost:1", "a", "http://127.0.0.1:1", NULL},
        {"a=http://127.0.0.1:1,a=http://127.0.0.1:3", "a", "http://127.0.0.1:3,http://127.0.0.1:1",
         NULL},
        {"b=http://127.0.0.1:1", "a", "http://127.0.0.1:1",
         "couldn't find local name \"a\" in the initial cluster configuration"},
        {"a=http://127.0.0.1:1", "a", "http://127.0.0.2:1",
         "--initial-cluster has a=http://127.0.0.1:1 but missing from "
         "--initial-advertise-peer-urls=http://127.0.0.2:1 ("},
        {"a=http://127.0.0.1:1", "a", "http://127.0.0.1:1,http://127.0.0.2:1",
         "--initial-advertise-peer-urls has http://127.0.0.2:1 but missing from "
         "--initial-cluster=a=http://127.0.0.1:1"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct boot_cluster c;
        struct url_list urls;
        char *error = NULL;
        int r;

        cr_assert_eq(boot_cluster_parse(rows[i].cluster, &c, &error), 0);
        url_list_split(bytes_str(rows[i].advertised), &urls);
        r = boot_cluster_check(&c, rows[i].name, &urls, &error);
        if (rows[i].error == NULL) {
            cr_expect_eq(r, 0, "%s", error);
        } else {
            cr_assert_neq(r, 0);
            cr_expect(strncmp(error, rows[i].error, strlen(rows[i].error)) == 0, "%s", error);
        }
        free(error);
        url_list_fini(&urls);
        boot_cluster_fini(&c);
    }
}

static void add(struct buf *b, uint64_t id, const char *urls, bool removed)
{
    struct proto_member m = {.id = id, .peer_urls = bytes_str(urls), .removed = removed};

    proto_member_encode(b, &m);
}

Test(bootstrap, match_existing)
{
    struct boot_cluster c;
    struct raftd_members remote = {0};
    struct buf b = BUF_INIT;
    char *error = NULL;

    cr_assert_eq(boot_cluster_parse("a=http://127.0.0.1:1,b=http://127.0.0.1:2", &c, &error), 0);
    add(&b, 11, "http://127.0.0.1:2", false);
    add(&b, 13, "http://127.0.0.1:9", true);
    cr_assert_eq(raftd_members_load(&remote, buf_bytes(&b)), 0);
    cr_expect_neq(boot_cluster_match(&c, &remote, &error), 0);
    cr_expect_not_null(strstr(error, "error validating peerURLs {ClusterID:0 Members:[&{ID:0 "));
    cr_expect_not_null(strstr(error, ": member count is unequal"));
    free(error);

    add(&b, 12, "http://127.0.0.1:3", false);
    cr_assert_eq(raftd_members_load(&remote, buf_bytes(&b)), 0);
    cr_expect_neq(boot_cluster_match(&c, &remote, &error), 0);
    cr_expect_not_null(strstr(error, ": PeerURLs: no match found for existing member (c, "
                                     "[http://127.0.0.1:3]), last resolver error ("));
    free(error);
    c.list[0].id = c.list[1].id = 0;

    buf_clear(&b);
    add(&b, 12, "http://localhost:1", false);
    add(&b, 11, "http://127.0.0.1:2", false);
    cr_assert_eq(raftd_members_load(&remote, buf_bytes(&b)), 0);
    cr_expect_eq(boot_cluster_match(&c, &remote, &error), 0);
    cr_expect_eq(boot_cluster_find(&c, "a")->id, 12);
    cr_expect_eq(boot_cluster_find(&c, "b")->id, 11);
    raftd_members_fini(&remote);
    boot_cluster_fini(&c);
    buf_fini(&b);
}

Test(bootstrap, first_entries)
{
    struct boot_cluster c;
    struct raftd_members m = {0};
    struct buf b = BUF_INIT;
    struct raft_conf conf;
    size_t ends[2];
    char *error = NULL;

    cr_assert_eq(boot_cluster_parse("a=http://x:1,b=http://x:2", &c, &error), 0);
    cr_expect_neq(boot_cluster_derive(&c, "t"), boot_cluster_derive(&c, "u"));
    boot_cluster_derive(&c, "t");
    boot_cluster_entries(&c, &b, ends);
    cr_expect_lt(c.list[0].id, c.list[1].id);
    for (size_t i = 0; i < 2; i++) {
        size_t start = i != 0 ? ends[i - 1] : 0;
        struct proto_payload p;
        struct proto_conf_change change;

        cr_assert_eq(proto_payload_decode(bytes_of(b.data + start, ends[i] - start), &p), 0);
        cr_expect_eq(p.kind, PROTO_KIND_CONF_CHANGE);
        cr_expect_eq(p.origin_generation, 0);
        cr_assert_eq(proto_conf_change_decode(p.body, &change), 0);
        cr_expect_eq(change.member.id, c.list[i].id);
        cr_expect_eq(raftd_members_apply(&m, &change), 0);
    }
    raftd_members_conf(&m, &conf);
    cr_expect_eq(conf.voter_count, 2);
    raftd_members_fini(&m);
    boot_cluster_fini(&c);
    buf_fini(&b);
}

Test(members, changes)
{
    static const struct {
        enum proto_conf_op op;
        uint64_t id;
        const char *urls;
        int expected;
    } rows[] = {
        {PROTO_CONF_ADD_VOTER, 0, "http://a:1", OUT_MEMBER_EXIST},
        {PROTO_CONF_ADD_VOTER, 1, "", OUT_MEMBER_BAD_URLS},
        {PROTO_CONF_ADD_VOTER, 1, "http://a:1", 0},
        {PROTO_CONF_ADD_VOTER, 1, "http://a:2", OUT_MEMBER_EXIST},
        {PROTO_CONF_ADD_LEARNER, 2, "http://a:1", OUT_PEER_URL_EXIST},
        {PROTO_CONF_ADD_LEARNER, 2, "http://a:2", 0},
        {PROTO_CONF_REMOVE, 1, "", OUT_MEMBER_NOT_ENOUGH_STARTED},
        {PROTO_CONF_PROMOTE, 3, "", OUT_MEMBER_NOT_FOUND},
        {PROTO_CONF_PROMOTE, 1, "", OUT_MEMBER_NOT_LEARNER},
        {PROTO_CONF_PROMOTE, 2, "", 0},
        {PROTO_CONF_UPDATE, 2, "http://a:1", OUT_PEER_URL_EXIST},
        {PROTO_CONF_UPDATE, 2, "http://a:2,http://b:2", 0},
        {PROTO_CONF_UPDATE, 3, "http://c:2", OUT_MEMBER_NOT_FOUND},
        {PROTO_CONF_REMOVE, 1, "", 0},
        {PROTO_CONF_REMOVE, 1, "", OUT_MEMBER_NOT_FOUND},
        {PROTO_CONF_ADD_VOTER, 1, "http://a:9", OUT_MEMBER_NOT_FOUND}, /* used once; as etcd answers */
        {PROTO_CONF_ADD_VOTER, 3, "http://a:1", 0}, /* URLs of the removed are free */
    };
    struct raftd_members m = {0}, again = {0};
    struct buf a = BUF_INIT, b = BUF_INIT;
    struct raft_conf conf;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct proto_conf_change c = {
            .op = rows[i].op, .member = {.id = rows[i].id, .peer_urls = bytes_str(rows[i].urls)}};
        int out = raftd_members_apply(&m, &c);

        cr_assert_eq(out, rows[i].expected, "row %zu: %s", i, outcome_name(out));
    }
    raftd_members_conf(&m, &conf);
    cr_expect_eq(conf.voter_count, 2);
    cr_expect_eq(conf.learner_count, 0);
    raftd_members_encode(&m, &a);
    cr_assert_eq(raftd_members_load(&again, buf_bytes(&a)), 0);
    raftd_members_encode(&again, &b);
    cr_expect(bytes_eq(buf_bytes(&a), buf_bytes(&b)));
    cr_expect_neq(raftd_members_load(&again, bytes_of(a.data, a.len - 1)), 0);
    cr_expect_eq(again.count, 3);
    raftd_members_fini(&m);
    raftd_members_fini(&again);
    buf_fini(&a);
    buf_fini(&b);
}
