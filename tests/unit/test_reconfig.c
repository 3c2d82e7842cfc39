/* Which membership change a leader lets into its log: etcd's strict-reconfig-check, row by row. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "raftd/raftd_reconfig.h"
#include "raftd/raftd_members.h"

/* Members are letters: 'a' is the leader. V: a started voter, v: one that never started; L, l:
 * learners; X: removed. Ids are 1 for the first, and so on; URLs http://<id>:1. */
struct world {
    const char *members;
    const char *connected; /* per member: '+' long enough, '~' only now, '-' not */
    uint64_t match;        /* of every learner */
    bool lax;
    uint64_t learners_max;
};

static bool connected(void *user, uint64_t id)
{
    const struct world *w = user;

    return w->connected[id - 1] == '+';
}

static bool seen(void *user, uint64_t id)
{
    const struct world *w = user;

    return id <= strlen(w->connected) && w->connected[id - 1] != '-';
}

static bool match(void *user, uint64_t id, uint64_t *ret_index)
{
    const struct world *w = user;

    if (id > strlen(w->members) || w->members[id - 1] == 'X')
        return false;
    *ret_index = strchr("Ll", w->members[id - 1]) != NULL ? w->match : 1000;
    return true;
}

static int check(const struct world *w, enum proto_conf_op op, uint64_t id, const char *url)
{
    struct buf list = BUF_INIT;
    struct raftd_members members = {0};
    struct reconfig_view view = {.members = &members,
                                 .self = 1,
                                 .strict = !w->lax,
                                 .learners_max = w->learners_max != 0 ? w->learners_max : 1,
                                 .leader_match = 1000,
                                 .connected = connected,
                                 .seen = seen,
                                 .match = match,
                                 .user = (void *)(uintptr_t)w};
    struct proto_conf_change change = {.op = op,
                                       .member = {.id = id, .peer_urls = bytes_str(url)}};
    int out;

    for (size_t i = 0; w->members[i] != '\0'; i++) {
        char urls[32];

        snprintf(urls, sizeof(urls), "http://%zu:1", i + 1);
        proto_member_encode(&list, &(struct proto_member){
                                       .id = i + 1,
                                       .is_learner = strchr("Ll", w->members[i]) != NULL,
                                       .removed = w->members[i] == 'X',
                                       .name = bytes_str(strchr("VL", w->members[i]) ? "n" : ""),
                                       .peer_urls = bytes_str(urls)});
    }
    cr_assert_eq(raftd_members_load(&members, buf_bytes(&list)), 0);
    out = reconfig_check(&view, &change);
    raftd_members_fini(&members);
    buf_fini(&list);
    return out;
}

Test(reconfig, table)
{
    static const struct {
        struct world world;
        enum proto_conf_op op;
        uint64_t id;
        const char *url;
        int expected;
    } rows[] = {
        /* adding voters */
        {{"V", "+", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", 0},
        {{"Vv", "+-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", OUT_MEMBER_NOT_ENOUGH_STARTED},
        {{"VV", "++", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", 0},
        {{"VV", "+~", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", OUT_UNHEALTHY},
        {{"VVV", "++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", OUT_UNHEALTHY},
        {{"VVv", "++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", OUT_MEMBER_NOT_ENOUGH_STARTED},
        {{"VVVv", "+++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", OUT_UNHEALTHY},
        {{"VVL", "++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", 0}, /* learners do not count */
        {{"VVX", "++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", 0},
        {{"VVV", "++-", .lax = true}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", 0},
        {{"Vv", "+-", .lax = true}, PROTO_CONF_ADD_VOTER, 9, "http://x:1", 0},
        {{"VVV", "+++", .match = 0}, PROTO_CONF_ADD_VOTER, 2, "http://x:1", OUT_MEMBER_EXIST},
        {{"VVV", "+++", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://2:1", OUT_PEER_URL_EXIST},
        {{"VVV", "++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://2:1", OUT_UNHEALTHY}, /* comes first */
        {{"VVV", "+++", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://x:1,http://3:1", OUT_PEER_URL_EXIST},
        {{"VVX", "++-", .match = 0}, PROTO_CONF_ADD_VOTER, 9, "http://3:1", 0}, /* its address is free again */
        /* adding learners */
        {{"V", "+", .match = 0}, PROTO_CONF_ADD_LEARNER, 9, "http://x:1", 0},
        {{"Vv", "+-", .match = 0}, PROTO_CONF_ADD_LEARNER, 9, "http://x:1", OUT_UNHEALTHY},
        {{"VL", "+-", .match = 0}, PROTO_CONF_ADD_LEARNER, 9, "http://x:1", OUT_TOO_MANY_LEARNERS},
        {{"VL", "+-", .learners_max = 2}, PROTO_CONF_ADD_LEARNER, 9, "http://x:1", 0},
        {{"VL", "+-", .lax = true}, PROTO_CONF_ADD_LEARNER, 9, "http://x:1",
         OUT_TOO_MANY_LEARNERS},
        {{"VL", "+-", .match = 0}, PROTO_CONF_ADD_LEARNER, 9, "http://2:1", OUT_PEER_URL_EXIST},
        /* removing */
        {{"V", "+", .match = 0}, PROTO_CONF_REMOVE, 1, "", OUT_MEMBER_NOT_ENOUGH_STARTED},
        {{"V", "+", .match = 0}, PROTO_CONF_REMOVE, 77, "", OUT_MEMBER_NOT_FOUND},
        {{"VV", "++", .match = 0}, PROTO_CONF_REMOVE, 2, "", 0},
        {{"VV", "+-", .match = 0}, PROTO_CONF_REMOVE, 2, "", 0},
        {{"VVV", "+++", .match = 0}, PROTO_CONF_REMOVE, 1, "", 0},
        {{"VVV", "+++", .match = 0}, PROTO_CONF_REMOVE, 3, "", 0},
        {{"VVV", "++-", .match = 0}, PROTO_CONF_REMOVE, 3, "", 0}, /* the one that is down */
        {{"VVV", "++-", .match = 0}, PROTO_CONF_REMOVE, 2, "", OUT_UNHEALTHY},
        {{"VVV", "++~", .match = 0}, PROTO_CONF_REMOVE, 2, "", OUT_UNHEALTHY},
        {{"VVV", "++-", .lax = true}, PROTO_CONF_REMOVE, 2, "", 0},
        {{"Vvv", "+--", .match = 0}, PROTO_CONF_REMOVE, 1, "", OUT_MEMBER_NOT_ENOUGH_STARTED},
        {{"Vv", "+-", .match = 0}, PROTO_CONF_REMOVE, 2, "", 0},
        {{"VVL", "+--", .match = 0}, PROTO_CONF_REMOVE, 3, "", 0}, /* a learner always */
        {{"VX", "+-", .match = 0}, PROTO_CONF_REMOVE, 2, "", OUT_MEMBER_NOT_FOUND},
        /* promoting */
        {{"VL", "++", .match = 900}, PROTO_CONF_PROMOTE, 2, "", 0},
        {{"VL", "++", .match = 899}, PROTO_CONF_PROMOTE, 2, "", OUT_LEARNER_NOT_READY},
        {{"VL", "++", .match = 899, .lax = true}, PROTO_CONF_PROMOTE, 2, "",
         OUT_LEARNER_NOT_READY},
        {{"VL", "++", .match = 1000}, PROTO_CONF_PROMOTE, 1, "", OUT_MEMBER_NOT_LEARNER},
        {{"VL", "++", .match = 1000}, PROTO_CONF_PROMOTE, 77, "", OUT_MEMBER_NOT_FOUND},
        {{"VvvL", "+--+", .match = 1000}, PROTO_CONF_PROMOTE, 4, "",
         OUT_MEMBER_NOT_ENOUGH_STARTED},
        {{"VvvL", "+--+", .match = 1000, .lax = true}, PROTO_CONF_PROMOTE, 4, "", 0},
        /* moving */
        {{"VVV", "+--", .match = 0}, PROTO_CONF_UPDATE, 2, "http://x:1", 0},
        {{"VVV", "+--", .match = 0}, PROTO_CONF_UPDATE, 2, "http://2:1", 0},
        {{"VVV", "+--", .match = 0}, PROTO_CONF_UPDATE, 2, "http://3:1", OUT_PEER_URL_EXIST},
        {{"VVV", "+--", .match = 0}, PROTO_CONF_UPDATE, 2, "", OUT_MEMBER_BAD_URLS},
        {{"VVV", "+--", .match = 0}, PROTO_CONF_UPDATE, 77, "http://x:1", OUT_MEMBER_NOT_FOUND},
        {{"VVX", "+--", .match = 0}, PROTO_CONF_UPDATE, 3, "http://x:1", OUT_MEMBER_NOT_FOUND},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int out = check(&rows[i].world, rows[i].op, rows[i].id, rows[i].url);

        cr_expect_eq(out, rows[i].expected, "row %zu (%s, %s, op %d): %s instead of %s", i,
                     rows[i].world.members, rows[i].world.connected, (int)rows[i].op,
                     outcome_name(out), outcome_name(rows[i].expected));
    }
}
