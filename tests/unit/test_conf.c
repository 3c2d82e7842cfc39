#include <criterion/criterion.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include "lib/conf/conf.h"
#include "lib/util/macros.h"

#define S UINT64_C(1000000000)

Test(conf, durations)
{
    static const struct {
        const char *text;
        int r;
        uint64_t ns;
    } rows[] = {
        {"0", 0, 0},
        {"+0", 0, 0},
        {"0s", 0, 0},
        {"5s", 0, 5 * S},
        {"+5s", 0, 5 * S},
        {"1478s", 0, 1478 * S},
        {"5.0s", 0, 5 * S},
        {"5.6s", 0, 5 * S + 600000000},
        {"5.s", 0, 5 * S},
        {".5s", 0, 500000000},
        {"1.0040s", 0, S + 4000000},
        {"100.00100s", 0, 100 * S + 1000000},
        {"10ns", 0, 10},
        {"11us", 0, 11000},
        {"12\xc2\xb5s", 0, 12000},
        {"12\xce\xbcs", 0, 12000},
        {"13ms", 0, 13000000},
        {"14s", 0, 14 * S},
        {"15m", 0, 900 * S},
        {"16h", 0, 57600 * S},
        {"3h30m", 0, 12600 * S},
        {"1h2m3s", 0, 3723 * S},
        {"10.5s4m", 0, 250 * S + 500000000},
        {"2m3.4s", 0, 123 * S + 400000000},
        {"1h2m3s4ms5us6ns", 0, 3723 * S + 4005006},
        {"39h9m14.425s", 0, 140954 * S + 425000000},
        {"52763797000ns", 0, 52763797000},
        {"0.3333333333333333333h", 0, 1200 * S},
        {"9007199254740993ns", 0, 9007199254740993},
        {"9223372036854775807ns", 0, INT64_MAX},
        {"9223372036854775.807us", 0, INT64_MAX},
        {"0.100000000000000000000h", 0, 360 * S},
        {"0.830103483285477580700h", 0, 2988372539827},
        {"", -EINVAL, 0},
        {"+", -EINVAL, 0},
        {"3", -EINVAL, 0},
        {"-5s", -EINVAL, 0},
        {"s", -EINVAL, 0},
        {".", -EINVAL, 0},
        {"-.", -EINVAL, 0},
        {".s", -EINVAL, 0},
        {"+.s", -EINVAL, 0},
        {"1d", -EINVAL, 0},
        {"1mx", -EINVAL, 0},
        {"1 s", -EINVAL, 0},
        {" 1s", -EINVAL, 0},
        {"1s ", -EINVAL, 0},
        {"1h2", -EINVAL, 0},
        {"\x85\x85", -EINVAL, 0},
        {"3000000h", -EINVAL, 0},
        {"9223372036854775808ns", -EINVAL, 0},
        {"9223372036854775.808us", -EINVAL, 0},
        {"9223372036854ms775us808ns", -EINVAL, 0},
        {"18446744073709551616ns", -EINVAL, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t ns = 77;
        int r = conf_parse_duration(rows[i].text, &ns);

        cr_assert_eq(r, rows[i].r, "%s: %d", rows[i].text, r);
        cr_assert_eq(ns, r == 0 ? rows[i].ns : 77, "%s: %" PRIu64, rows[i].text, ns);
    }
}

Test(conf, bools)
{
    static const char *const yes[] = {"1", "t", "T", "true", "TRUE", "True"};
    static const char *const no[] = {"0", "f", "F", "false", "FALSE", "False"};
    static const char *const bad[] = {"", "yes", "on", "tRUE", "2", " true", "true ", "no"};
    bool b;

    for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
        cr_assert(conf_parse_bool(yes[i], &b) == 0 && b, "%s", yes[i]);
        cr_assert(conf_parse_bool(no[i], &b) == 0 && !b, "%s", no[i]);
    }
    b = true;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_assert(conf_parse_bool(bad[i], &b) == -EINVAL && b, "%s", bad[i]);
}

Test(conf, unsigned_numbers)
{
    static const struct {
        const char *text;
        int r;
        uint64_t v;
    } rows[] = {
        {"0", 0, 0},
        {"1", 0, 1},
        {"1_000", 0, 1000},
        {"0x10", 0, 16},
        {"0X1_f", 0, 31},
        {"0x_f", 0, 15},
        {"0b101", 0, 5},
        {"0o17", 0, 15},
        {"017", 0, 15},
        {"0_7", 0, 7},
        {"18446744073709551615", 0, UINT64_MAX},
        {"0xffffffffffffffff", 0, UINT64_MAX},
        {"18446744073709551616", -EINVAL, 0},
        {"0x10000000000000000", -EINVAL, 0},
        {"99999999999999999999999", -EINVAL, 0},
        {"", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {"1.5", -EINVAL, 0},
        {"1e3", -EINVAL, 0},
        {"08", -EINVAL, 0},
        {"0x", -EINVAL, 0},
        {"0b2", -EINVAL, 0},
        {"_1", -EINVAL, 0},
        {"1_", -EINVAL, 0},
        {"1__0", -EINVAL, 0},
        {"0_", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"1 ", -EINVAL, 0},
        {"ten", -EINVAL, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        uint64_t v = 77;
        int r = conf_parse_u64(rows[i].text, &v);

        cr_assert_eq(r, rows[i].r, "%s: %d", rows[i].text, r);
        cr_assert_eq(v, r == 0 ? rows[i].v : 77, "%s: %" PRIu64, rows[i].text, v);
    }
}

Test(conf, signed_numbers)
{
    static const struct {
        const char *text;
        int r;
        int64_t v;
    } rows[] = {
        {"0", 0, 0},
        {"-1", 0, -1},
        {"+5", 0, 5},
        {"-0x10", 0, -16},
        {"9223372036854775807", 0, INT64_MAX},
        {"-9223372036854775808", 0, INT64_MIN},
        {"9223372036854775808", -EINVAL, 0},
        {"-9223372036854775809", -EINVAL, 0},
        {"--1", -EINVAL, 0},
        {"-", -EINVAL, 0},
        {"", -EINVAL, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int64_t v = 77;
        int r = conf_parse_i64(rows[i].text, &v);

        cr_assert_eq(r, rows[i].r, "%s: %d", rows[i].text, r);
        cr_assert_eq(v, r == 0 ? rows[i].v : 77, "%s: %" PRId64, rows[i].text, v);
    }
}

struct sample {
    char *name;
    char *empty;
    bool pre_vote;
    uint64_t streams;
    int64_t quota;
    uint64_t keepalive_ns;
    uint64_t plain;
};

static const struct conf_field sample_fields[] = {
    {.name = "name", .type = CONF_STRING, .offset = offsetof(struct sample, name), .def = "default"},
    {.name = "empty", .type = CONF_STRING, .offset = offsetof(struct sample, empty)},
    {.name = "pre-vote",
     .type = CONF_BOOL,
     .offset = offsetof(struct sample, pre_vote),
     .def = "true"},
    {.name = "streams",
     .type = CONF_U64,
     .offset = offsetof(struct sample, streams),
     .def = "100",
     .min = 1,
     .max = 1000},
    {.name = "quota", .type = CONF_I64, .offset = offsetof(struct sample, quota), .def = "-1"},
    {.name = "keepalive",
     .type = CONF_DURATION,
     .offset = offsetof(struct sample, keepalive_ns),
     .def = "2h",
     .min = 1000},
    {.name = "plain", .type = CONF_U64, .offset = offsetof(struct sample, plain)},
    CONF_END,
};

Test(conf, defaults_without_any_line)
{
    struct sample s = {0};
    char *error = NULL;

    cr_assert_eq(conf_load(sample_fields, &s, BYTES_EMPTY, &error), 0);
    cr_assert_str_eq(s.name, "default");
    cr_assert_str_eq(s.empty, "");
    cr_assert(s.pre_vote);
    cr_assert_eq(s.streams, 100);
    cr_assert_eq(s.quota, -1);
    cr_assert_eq(s.keepalive_ns, 7200 * S);
    cr_assert_eq(s.plain, 0);
    conf_fini(sample_fields, &s);
    conf_fini(sample_fields, &s);
}

Test(conf, lines_set_fields)
{
    struct sample s = {0};
    char *error = NULL;

    cr_assert_eq(conf_load(sample_fields, &s,
                           BYTES_LIT("# a remark\nname=a=b\n\nstreams=5\nfor-somebody-else=x\n"
                                     "pre-vote=f\nstreams=7\nquota=12\nkeepalive=1m30s\nempty="),
                           &error),
                 0);
    cr_assert_str_eq(s.name, "a=b");
    cr_assert_str_eq(s.empty, "");
    cr_assert_eq(s.streams, 7);
    cr_assert(!s.pre_vote);
    cr_assert_eq(s.quota, 12);
    cr_assert_eq(s.keepalive_ns, 90 * S);
    conf_fini(sample_fields, &s);
}

Test(conf, bad_lines_name_key_and_value)
{
    static const struct {
        const char *text;
        const char *error;
    } rows[] = {
        {"name=x\npre-vote=on\n", "pre-vote: \"on\" is not true or false"},
        {"streams=-1", "streams: \"-1\" is not a number of 0 or more"},
        {"streams=0", "streams: \"0\" is not within 1 to 1000"},
        {"streams=1001", "streams: \"1001\" is not within 1 to 1000"},
        {"quota=1.5", "quota: \"1.5\" is not a number"},
        {"keepalive=5", "keepalive: \"5\" is not a duration such as 500ms or 1h30m"},
        {"keepalive=5ns", "keepalive: \"5ns\" is less than 1000 nanoseconds"},
        {"streams=", "streams: \"\" is not a number of 0 or more"},
        {"streams", "\"streams\" is not a line \"key=value\""},
        {"=5", "\"=5\" is not a line \"key=value\""},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct sample s = {0};
        char *error = NULL;

        cr_assert_eq(conf_load(sample_fields, &s, bytes_str(rows[i].text), &error), -EINVAL);
        cr_assert_str_eq(error, rows[i].error);
        cr_assert_null(s.name);
        free(error);
    }
}

Test(conf, a_zero_byte_is_refused)
{
    struct sample s = {0};
    char *error = NULL;

    cr_assert_eq(conf_load(sample_fields, &s, BYTES_LIT("name=a\0b\n"), &error), -EINVAL);
    free(error);
}
