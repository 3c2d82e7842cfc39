/* JSON to wire and back, by the descriptors of etcd's messages. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/json_codec.h"
#include "lib/proto/etcd/rpc.pb-c.h"
#include "lib/util/base64.h"

#define PUT &etcdserverpb__put_request__descriptor
#define RANGE &etcdserverpb__range_request__descriptor
#define TXN &etcdserverpb__txn_request__descriptor
#define WATCH &etcdserverpb__watch_request__descriptor
#define STATUS &etcdserverpb__status_response__descriptor
#define MEMBER &etcdserverpb__member__descriptor

/* What is read comes out again in the form that is written. */
static const struct {
    const ProtobufCMessageDescriptor *type;
    const char *in, *out;
} good_rows[] = {
    {PUT, "{}", "{}"},
    {PUT, " {\"key\":\"Zm9v\",\"value\":\"YmFy\"}", "{\"key\":\"Zm9v\",\"value\":\"YmFy\"}"},
    {PUT, "{\"key\":\"Zg\"}", "{\"key\":\"Zg==\"}"},
    {PUT, "{\"key\":\"-_8=\"}", "{\"key\":\"+/8=\"}"},
    {PUT, "{\"key\":null,\"lease\":null}", "{}"},
    {PUT, "{\"nobody\":{\"knows\":[1]},\"key\":\"Zg==\"}", "{\"key\":\"Zg==\"}"},
    {PUT, "{\"lease\":12}", "{\"lease\":\"12\"}"},
    {PUT, "{\"lease\":\"-12\"}", "{\"lease\":\"-12\"}"},
    {PUT, "{\"lease\":1e3}", "{\"lease\":\"1000\"}"},
    {PUT, "{\"lease\":\"9223372036854775807\"}", "{\"lease\":\"9223372036854775807\"}"},
    {PUT, "{\"lease\":-9223372036854775808}", "{\"lease\":\"-9223372036854775808\"}"},
    {PUT, "{\"prevKv\":true,\"ignore_value\":false}", "{\"prev_kv\":true}"},
    {RANGE, "{\"rangeEnd\":\"AA==\",\"range_end\":\"AQ==\"}", "{\"range_end\":\"AQ==\"}"},
    {RANGE, "{\"sort_order\":\"DESCEND\",\"sortTarget\":2}",
     "{\"sort_order\":\"DESCEND\",\"sort_target\":\"CREATE\"}"},
    {RANGE, "{\"sort_order\":99}", "{\"sort_order\":99}"},
    {RANGE, "{\"sort_order\":0,\"limit\":\"0\"}", "{}"},
    {TXN, "{\"compare\":[{\"version\":\"0\",\"key\":\"Zg==\",\"target\":\"VERSION\"}]}",
     "{\"compare\":[{\"key\":\"Zg==\",\"version\":\"0\"}]}"},
    {TXN, "{\"success\":[{\"requestPut\":{\"key\":\"Zg==\"}},{\"request_range\":{}}],\"failure\":[]}",
     "{\"success\":[{\"request_put\":{\"key\":\"Zg==\"}},{\"request_range\":{}}]}"},
    {WATCH, "{\"create_request\":{\"key\":\"Zg==\",\"filters\":[\"NOPUT\",1]}}",
     "{\"create_request\":{\"key\":\"Zg==\",\"filters\":[\"NOPUT\",\"NODELETE\"]}}"},
    {WATCH, "{\"progress_request\":{}}", "{\"progress_request\":{}}"},
    {STATUS, "{\"version\":\"3\\u0022\\n\\u00e4\",\"isLearner\":true,\"errors\":[\"a\",\"\"]}",
     "{\"version\":\"3\\\"\\n\xc3\xa4\",\"errors\":[\"a\",\"\"],\"isLearner\":true}"},
    {MEMBER, "{\"ID\":\"18446744073709551615\",\"peerURLs\":[\"http://a:1\"]}",
     "{\"ID\":\"18446744073709551615\",\"peerURLs\":[\"http://a:1\"]}"},
};

Test(json_codec, there_and_back)
{
    for (size_t i = 0; i < ARRAY_LEN(good_rows); i++) {
        CLEANUP(buf_fini) struct buf wire = BUF_INIT, out = BUF_INIT;
        struct bytes in = bytes_str(good_rows[i].in);
        char *error = NULL;
        size_t used;

        cr_assert_eq(json_to_pb(in, good_rows[i].type, &wire, &used, &error), 0, "%s: %s",
                     good_rows[i].in, error);
        cr_assert_eq(used, in.len, "%s", good_rows[i].in);
        cr_assert_eq(json_from_pb(buf_bytes(&wire), good_rows[i].type, &out), 0);
        buf_append_u8(&out, 0);
        cr_assert_str_eq((char *)out.data, good_rows[i].out);
    }
}

static const struct {
    const ProtobufCMessageDescriptor *type;
    const char *in;
    int error;
    const char *text; /* a part of it */
} bad_rows[] = {
    {PUT, "", -ENODATA, NULL},
    {PUT, " \n\t", -ENODATA, NULL},
    {PUT, "{", -EAGAIN, NULL},
    {PUT, "{\"key\":\"Zm9", -EAGAIN, NULL},
    {PUT, "{\"key\":\"Zm9v\"", -EAGAIN, NULL},
    {PUT, "{\"key\":}", -EINVAL, "syntax error (line 1:"},
    {PUT, "}", -EINVAL, "syntax error"},
    {PUT, "[]", -EINVAL, "must be a JSON object"},
    {PUT, "7", -EINVAL, "must be a JSON object"},
    {PUT, "{\"key\":1}", -EINVAL, "bytes field key"},
    {PUT, "{\"key\":\"!!\"}", -EINVAL, "bytes field key"},
    {PUT, "{\"key\":\"Zm9v=\"}", -EINVAL, "bytes field key"},
    {PUT, "{\"key\":\"Zm9vZ\"}", -EINVAL, "bytes field key"},
    {PUT, "{\"key\":\"Z===\"}", -EINVAL, "bytes field key"},
    {PUT, "{\"lease\":1.5}", -EINVAL, "int64 field lease"},
    {PUT, "{\"lease\":\"1x\"}", -EINVAL, "int64 field lease"},
    {PUT, "{\"lease\":\"\"}", -EINVAL, "int64 field lease"},
    {PUT, "{\"lease\":\" 1\"}", -EINVAL, "int64 field lease"},
    {PUT, "{\"lease\":\"9223372036854775808\"}", -EINVAL, "int64 field lease"},
    {PUT, "{\"lease\":1e19}", -EINVAL, "int64 field lease"},
    {PUT, "{\"lease\":true}", -EINVAL, "int64 field lease"},
    {PUT, "{\"prev_kv\":\"true\"}", -EINVAL, "bool field prev_kv"},
    {MEMBER, "{\"ID\":-1}", -EINVAL, "uint64 field ID"},
    {MEMBER, "{\"ID\":\"-1\"}", -EINVAL, "uint64 field ID"},
    {MEMBER, "{\"peerURLs\":\"http://a\"}", -EINVAL, "repeated field peerURLs"},
    {MEMBER, "{\"name\":[]}", -EINVAL, "string field name"},
    {RANGE, "{\"sort_order\":\"SIDEWAYS\"}", -EINVAL, "enum field sort_order"},
    {TXN, "{\"compare\":{}}", -EINVAL, "repeated field compare"},
    {TXN, "{\"success\":[{\"request_put\":[]}]}", -EINVAL, "message field request_put"},
};

Test(json_codec, refused)
{
    for (size_t i = 0; i < ARRAY_LEN(bad_rows); i++) {
        CLEANUP(buf_fini) struct buf wire = BUF_INIT;
        char *error = NULL;
        size_t used;

        cr_assert_eq(json_to_pb(bytes_str(bad_rows[i].in), bad_rows[i].type, &wire, &used, &error),
                     bad_rows[i].error, "%s", bad_rows[i].in);
        if (bad_rows[i].text != NULL)
            cr_assert_not_null(strstr(error, bad_rows[i].text), "%s: %s", bad_rows[i].in, error);
        free(error);
    }
}

Test(json_codec, objects_follow_each_other)
{
    struct bytes text = bytes_str("{\"key\":\"YQ==\"}\n{\"key\":\"Yg==\"} {\"ke");
    static const char *const keys[] = {"a", "b"};
    char *error = NULL;
    size_t used;

    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        CLEANUP(buf_fini) struct buf wire = BUF_INIT;
        Etcdserverpb__PutRequest *m;

        cr_assert_eq(json_to_pb(text, PUT, &wire, &used, &error), 0);
        m = etcdserverpb__put_request__unpack(NULL, wire.len, wire.data);
        cr_assert_eq(m->key.len, 1);
        cr_assert_eq(m->key.data[0], keys[i][0]);
        etcdserverpb__put_request__free_unpacked(m, NULL);
        text = bytes_of(text.data + used, text.len - used);
    }
    CLEANUP(buf_fini) struct buf wire = BUF_INIT;
    cr_assert_eq(json_to_pb(text, PUT, &wire, &used, &error), -EAGAIN);
}

Test(json_codec, nesting_is_bounded)
{
    CLEANUP(buf_fini) struct buf text = BUF_INIT, wire = BUF_INIT;
    char *error = NULL;
    size_t used;

    for (int i = 0; i < 200; i++)
        buf_appendf(&text, "{\"success\":[{\"request_txn\":");
    buf_appendf(&text, "{}");
    for (int i = 0; i < 200; i++)
        buf_appendf(&text, "}]}");
    cr_assert_eq(json_to_pb(buf_bytes(&text), TXN, &wire, &used, &error), -EINVAL);
    cr_assert_str_eq(error, "proto: exceeded max recursion depth");
    free(error);
}

Test(json_codec, not_a_message)
{
    CLEANUP(buf_fini) struct buf out = BUF_INIT;

    cr_assert_eq(json_from_pb(BYTES_LIT("\x0a\xff"), PUT, &out), -EBADMSG);
}

Test(json_codec, text_that_is_not_utf8)
{
    static const struct {
        const char *in, *out;
    } rows[] = {
        {"a\xff"
         "b",
         "\"a\xef\xbf\xbd"
         "b\""},
        {"\xc3", "\"\xef\xbf\xbd\""},
        {"\xed\xa0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\xf0\x9f\x98\x80", "\"\xf0\x9f\x98\x80\""},
        {"\xc0\x80", "\"\xef\xbf\xbd\xef\xbf\xbd\""},
        {"\\\t\x7f", "\"\\\\\\u0009\\u007f\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        CLEANUP(buf_fini) struct buf out = BUF_INIT;

        json_put_string(&out, bytes_str(rows[i].in));
        buf_append_u8(&out, 0);
        cr_assert_str_eq((char *)out.data, rows[i].out);
    }
}
