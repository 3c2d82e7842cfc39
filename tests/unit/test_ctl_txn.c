/* The lines of `txn`, the words of a line, and texts in Go's forms. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"

static bool data_is(ProtobufCBinaryData data, const char *text)
{
    return data.len == strlen(text) && (data.len == 0 || memcmp(data.data, text, data.len) == 0);
}

Test(ctl_txn, comparisons)
{
    static const struct {
        const char *line, *key;
        Etcdserverpb__Compare__CompareTarget target;
        Etcdserverpb__Compare__CompareResult result;
        int64_t number;
        const char *value;
    } rows[] = {
        {"ver(\"foo\") = \"7\"", "foo", ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL, 7, NULL},
        {"version(\"a b\")   !=   \"-1\"", "a b", ETCDSERVERPB__COMPARE__COMPARE_TARGET__VERSION,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__NOT_EQUAL, -1, NULL},
        {"c(\"k\") < \"5\"", "k", ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__LESS, 5, NULL},
        {"mod(`k`) > `5`", "k", ETCDSERVERPB__COMPARE__COMPARE_TARGET__MOD,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__GREATER, 5, NULL},
        {"value(\"q\\\"\\x41\") = \"x(y) z\"", "q\"A", ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL, 0, "x(y) z"},
        {"val(\"k\") = \"\"", "k", ETCDSERVERPB__COMPARE__COMPARE_TARGET__VALUE,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL, 0, ""},
        {"lease(\"k\") = \"1f\"", "k", ETCDSERVERPB__COMPARE__COMPARE_TARGET__LEASE,
         ETCDSERVERPB__COMPARE__COMPARE_RESULT__EQUAL, 0x1f, NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Etcdserverpb__Compare cmp;
        char *error = NULL;

        cr_assert_eq(cmd_txn_parse_compare(rows[i].line, &cmp, &error), 0, "%s: %s", rows[i].line,
                     error);
        cr_assert(data_is(cmp.key, rows[i].key), "%s", rows[i].line);
        cr_assert_eq(cmp.target, rows[i].target);
        cr_assert_eq(cmp.result, rows[i].result);
        if (rows[i].value != NULL) {
            cr_assert(data_is(cmp.value, rows[i].value), "%s", rows[i].line);
            free(cmp.value.data);
        } else {
            cr_assert_eq(cmp.version, rows[i].number, "%s", rows[i].line);
        }
        free(cmp.key.data);
    }
}

Test(ctl_txn, comparisons_that_are_none)
{
    static const struct {
        const char *line, *error;
    } rows[] = {
        {"foo", "malformed comparison: foo"},
        {"ver(\"foo\") = \"0", "malformed comparison: ver(\"foo\") = \"0; got ver(\"foo\") = \"\""},
        {"ver(\"foo\") \"0\"",
         "malformed comparison: ver(\"foo\") \"0\"; got ver(\"foo\") \"0\" \"\""},
        {"ver(\"foo\")", "malformed comparison: ver(\"foo\"); got ver(\"foo\")  \"\""},
        {"ver(foo) = \"0\"", "malformed comparison: ver(foo) = \"0\"; got ver(\"\")  \"\""},
        {"bogus(\"foo\") > \"0\"",
         "malformed comparison: bogus(\"foo\") > \"0\" (unknown target bogus)"},
        {"ver(\"foo\") = \"x\"", "invalid txn compare request: ver(\"foo\") = \"x\""},
        {"ver(\"foo\") == \"1\"", "invalid txn compare request: ver(\"foo\") == \"1\""},
        {"lease(\"foo\") = \"xyz\"", "invalid txn compare request: lease(\"foo\") = \"xyz\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        Etcdserverpb__Compare cmp;
        char *error = NULL;

        cr_assert_eq(cmd_txn_parse_compare(rows[i].line, &cmp, &error), -EINVAL, "%s",
                     rows[i].line);
        cr_assert_str_eq(error, rows[i].error);
        free(error);
    }
}

/* Requests live as long as the process; under a leak checker they are what main would hold. */
static Etcdserverpb__RequestOp op;

Test(ctl_txn, requests_that_are_none)
{
    static const char *const rows[] = {"get", "bogus x", "get --bogus x", "put k v --lease",
                                       "put \"\\q\" v"};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char *error = NULL;

        cr_assert_eq(cmd_txn_parse_op(rows[i], &op, &error), -EINVAL, "%s", rows[i]);
        cr_assert_not_null(error);
        free(error);
    }
}

Test(ctl_txn, words)
{
    static const struct {
        const char *line;
        size_t count;
        const char *words[4];
    } rows[] = {
        {"", 0, {NULL}},
        {"  ", 0, {NULL}},
        {"put a b", 3, {"put", "a", "b"}},
        {"put\ta  b ", 3, {"put", "a", "b"}},
        {"put \"a b\" 'c d'", 3, {"put", "a b", "c d"}},
        {"put \"\" ''", 3, {"put", "", ""}},
        {"put \"\\x41\\n\\\"\" x", 3, {"put", "A\n\"", "x"}},
        {"put 'a\\n' x", 3, {"put", "a\\n", "x"}},
        {"put a\"b c", 3, {"put", "a\"b", "c"}},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char **words = NULL;
        size_t count = 0;

        cr_assert_eq(ctl_split_words(rows[i].line, &words, &count), 0, "%s", rows[i].line);
        cr_assert_eq(count, rows[i].count, "%s", rows[i].line);
        for (size_t j = 0; j < count; j++)
            cr_assert_str_eq(words[j], rows[i].words[j], "%s", rows[i].line);
        ctl_words_free(words, count);
    }
}

Test(ctl_text, quoting)
{
    static const struct {
        const char *in;
        size_t len;
        const char *out;
    } rows[] = {
        {"foo", 3, "\"foo\""},
        {"", 0, "\"\""},
        {"a\"b\\c", 5, "\"a\\\"b\\\\c\""},
        {"\x00\x01\n\t\x7f", 5, "\"\\x00\\x01\\n\\t\\x7f\""},
        {"h\xc3\xa9", 3, "\"h\xc3\xa9\""},
        {"\xff\xfe", 2, "\"\\xff\\xfe\""},
        {"\xc3", 1, "\"\\xc3\""},
        {"\xe2\x80\x8b", 3, "\"\\u200b\""},
        {"\xed\xa0\x80", 3, "\"\\xed\\xa0\\x80\""}, /* half a surrogate pair */
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf text CLEANUP(buf_fini) = BUF_INIT, back CLEANUP(buf_fini) = BUF_INIT;
        const char *at;

        ctl_text_quote(&text, rows[i].in, rows[i].len);
        buf_append_u8(&text, 0);
        cr_assert_str_eq((const char *)text.data, rows[i].out);
        at = (const char *)text.data;
        cr_assert_eq(ctl_text_unquote(&at, &back), 0, "%s", rows[i].out);
        cr_assert_eq(*at, '\0');
        cr_assert_eq(back.len, rows[i].len);
        cr_assert(back.len == 0 || memcmp(back.data, rows[i].in, back.len) == 0);
    }
}

Test(ctl_text, quoted_strings_that_are_none)
{
    static const char *const rows[] = {
        "",         "a",         "\"a",       "\"\\", "\"\\q\"",
        "\"\\x4\"", "\"\\u12\"", "\"\\400\"", "`a",   "\"\\U99999999\""};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct buf out CLEANUP(buf_fini) = BUF_INIT;
        const char *at = rows[i];

        cr_assert_eq(ctl_text_unquote(&at, &out), -EINVAL, "%s", rows[i]);
    }
}

Test(ctl_text, sizes_and_durations)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } sizes[] = {{0, "0 B"},          {9, "9 B"},
                 {10, "10 B"},        {999, "999 B"},
                 {1000, "1.0 kB"},    {20480, "20 kB"},
                 {9999, "10 kB"},     {36864, "37 kB"},
                 {82854982, "83 MB"}, {2147483648, "2.1 GB"}};
    static const struct {
        int64_t ns;
        const char *text;
    } durations[] = {{0, "0s"},
                     {5, "5ns"},
                     {1500, "1.5\xc2\xb5s"},
                     {1393388, "1.393388ms"},
                     {2000000000, "2s"},
                     {90500000000, "1m30.5s"},
                     {3661000000000, "1h1m1s"}};

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        char *text = ctl_text_size(sizes[i].bytes);

        cr_assert_str_eq(text, sizes[i].text);
        free(text);
    }
    for (size_t i = 0; i < ARRAY_LEN(durations); i++) {
        char *text = ctl_text_duration(durations[i].ns);

        cr_assert_str_eq(text, durations[i].text);
        free(text);
    }
}

/* What a function prints to a stream, free() it. */
static char *json_of(const void *message)
{
    char *text = NULL;
    size_t len = 0;
    FILE *out = open_memstream(&text, &len);

    ctl_json_message(out, message);
    fclose(out);
    return text;
}

Test(ctl_print, json_leaves_empty_fields_out)
{
    Etcdserverpb__ResponseHeader header = ETCDSERVERPB__RESPONSE_HEADER__INIT;
    Etcdserverpb__TxnResponse txn = ETCDSERVERPB__TXN_RESPONSE__INIT;
    Etcdserverpb__PutResponse put = ETCDSERVERPB__PUT_RESPONSE__INIT;
    Etcdserverpb__ResponseOp put_op = ETCDSERVERPB__RESPONSE_OP__INIT;
    Etcdserverpb__ResponseOp *ops[] = {&put_op};
    Etcdserverpb__Member m = ETCDSERVERPB__MEMBER__INIT;
    char name[] = "<a>\"\n", url[] = "http://a";
    char *urls[] = {url, url};
    char *text;

    text = json_of(&txn);
    cr_assert_str_eq(text, "{}");
    free(text);
    header.cluster_id = UINT64_MAX;
    header.revision = -1;
    txn.header = &header;
    txn.succeeded = true;
    put_op.response_case = ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_PUT;
    put_op.response_put = &put;
    txn.responses = ops;
    txn.n_responses = 1;
    text = json_of(&txn);
    cr_assert_str_eq(text,
                     "{\"header\":{\"cluster_id\":18446744073709551615,\"revision\":-1},"
                     "\"succeeded\":true,\"responses\":[{\"Response\":{\"response_put\":{}}}]}");
    free(text);
    m.id = 1;
    m.name = name;
    m.peerurls = urls;
    m.n_peerurls = 2;
    text = json_of(&m);
    cr_assert_str_eq(text, "{\"ID\":1,\"name\":\"\\u003ca\\u003e\\\"\\n\","
                           "\"peerURLs\":[\"http://a\",\"http://a\"]}");
    free(text);
}

Test(ctl_print, prefixes_end_where_the_next_begins)
{
    static const struct {
        const char *prefix;
        size_t len;
        const char *end;
        size_t end_len;
    } rows[] = {{"a", 1, "b", 1},
                {"ab", 2, "ac", 2},
                {"a\xff", 2, "b", 1},
                {"\xff\xff", 2, "\0", 1},
                {"", 0, "\0", 1}};

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        ProtobufCBinaryData end = ctl_prefix_end((ProtobufCBinaryData){
            .data = (uint8_t *)(uintptr_t)rows[i].prefix, .len = rows[i].len});

        cr_assert_eq(end.len, rows[i].end_len);
        cr_assert_eq(memcmp(end.data, rows[i].end, end.len), 0);
        if (end.data != ctl_zero_byte().data)
            free(end.data);
    }
}
