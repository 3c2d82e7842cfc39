#include <criterion/criterion.h>

#include "gatewayd/grpc_status.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"

Test(grpc_status, every_outcome_has_a_code_and_a_text)
{
    for (int i = OUT_OK + 1; i < OUT_COUNT; i++) {
        struct grpc_status s = grpc_status_of_outcome(i);

        cr_assert_neq(s.code, GRPC_OK, "%s", outcome_name(i));
        cr_assert(s.text[0] != '\0', "%s", outcome_name(i));
        cr_assert_str_neq(s.text, "etcdserver: unknown error", "%s", outcome_name(i));
    }
    cr_assert_eq(grpc_status_of_outcome(OUT_OK).code, GRPC_OK);
    cr_assert_eq(grpc_status_of_outcome(-1).code, GRPC_UNKNOWN);
    cr_assert_eq(grpc_status_of_outcome(OUT_COUNT).code, GRPC_UNKNOWN);
}

Test(grpc_status, etcd_texts_that_clients_compare)
{
    static const struct {
        int outcome;
        enum grpc_code code;
        const char *text;
    } rows[] = {
        {OUT_EMPTY_KEY, GRPC_INVALID_ARGUMENT, "etcdserver: key is not provided"},
        {OUT_COMPACTED, GRPC_OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted"},
        {OUT_FUTURE_REVISION, GRPC_OUT_OF_RANGE,
         "etcdserver: mvcc: required revision is a future revision"},
        {OUT_TOO_MANY_REQUESTS, GRPC_UNKNOWN, "etcdserver: too many requests"},
        {OUT_MEMBER_NOT_ENOUGH_STARTED, GRPC_UNKNOWN,
         "etcdserver: re-configuration failed due to not enough started members"},
        {OUT_UNHEALTHY, GRPC_UNAVAILABLE, "etcdserver: unhealthy cluster"},
        {OUT_NO_SPACE, GRPC_RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"},
        {OUT_NO_LEADER, GRPC_UNAVAILABLE, "etcdserver: no leader"},
        {OUT_TIMEOUT, GRPC_UNAVAILABLE, "etcdserver: request timed out"},
        {OUT_REQUEST_TOO_LARGE, GRPC_INVALID_ARGUMENT, "etcdserver: request is too large"},
        {OUT_TOO_MANY_OPS, GRPC_INVALID_ARGUMENT,
         "etcdserver: too many operations in txn request"},
        {OUT_CORRUPT, GRPC_DATA_LOSS, "etcdserver: corrupt cluster"},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct grpc_status s = grpc_status_of_outcome(rows[i].outcome);

        cr_assert_eq(s.code, rows[i].code);
        cr_assert_str_eq(s.text, rows[i].text);
    }
}

Test(grpc_status, message_is_percent_encoded)
{
    struct buf b = BUF_INIT;

    grpc_message_encode(&b, BYTES_LIT("a b%\n\xc3\xa9~"));
    cr_assert(bytes_eq(buf_bytes(&b), BYTES_LIT("a b%25%0A%C3%A9~")));
    buf_fini(&b);
}
