#include <criterion/criterion.h>
#include <string.h>
#include "lib/metrics/metrics.h"

static const char *text_of(struct buf *b)
{
    buf_append_u8(b, 0);
    return (const char *)b->data;
}

Test(metrics, families_and_samples)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    metrics_u64(&b, "a_total", "counter", "Help.", 18446744073709551615ULL);
    metrics_family(&b, "b", "gauge", "More.");
    metrics_sample(&b, "b", "x=\"1\"", 0);
    metrics_seconds(&b, "c", "gauge", "Time.", 1.25);
    cr_assert_str_eq(text_of(&b), "# HELP a_total Help.\n# TYPE a_total counter\n"
                                  "a_total 18446744073709551615\n"
                                  "# HELP b More.\n# TYPE b gauge\nb{x=\"1\"} 0\n"
                                  "# HELP c Time.\n# TYPE c gauge\nc 1.250\n");
}

static const struct {
    uint64_t ns;
    size_t bucket;
} bucket_rows[] = {
    {0, 0}, {1000000, 0}, {1000001, 1}, {2000000, 1}, {2000001, 2}, {4000000, 2}, {4000001, 3},
    {UINT64_MAX, 3},
};

Test(metrics, a_bound_belongs_to_its_bucket)
{
    for (size_t i = 0; i < ARRAY_LEN(bucket_rows); i++) {
        struct metrics_histogram h = {.first_ns = 1000000, .buckets = 3};

        metrics_histogram_add(&h, bucket_rows[i].ns);
        cr_assert_eq(h.bucket[bucket_rows[i].bucket], 1, "row %zu", i);
        cr_assert_eq(h.count, 1);
        cr_assert_eq(h.sum_ns, bucket_rows[i].ns);
    }
}

Test(metrics, bounds_may_be_given_one_by_one)
{
    static const uint64_t bounds[] = {5000000, 25000000, UINT64_C(2500000000)};
    struct metrics_histogram h = {.bounds_ns = bounds, .buckets = 3};
    CLEANUP(buf_fini) struct buf b = BUF_INIT;

    metrics_histogram_add(&h, 5000000);
    metrics_histogram_add(&h, 5000001);
    metrics_histogram_add(&h, 2500000001);
    metrics_histogram_samples(&b, "t", "", &h);
    cr_assert_str_eq(text_of(&b), "t_bucket{le=\"0.005\"} 1\nt_bucket{le=\"0.025\"} 2\n"
                                  "t_bucket{le=\"2.5\"} 2\nt_bucket{le=\"+Inf\"} 3\n"
                                  "t_sum 2.510000002\nt_count 3\n");
}

Test(metrics, buckets_are_shown_cumulative)
{
    struct metrics_histogram h = {.first_ns = 100000, .buckets = 2};
    CLEANUP(buf_fini) struct buf plain = BUF_INIT, labelled = BUF_INIT;

    metrics_histogram_add(&h, 50000);
    metrics_histogram_add(&h, 150000);
    metrics_histogram_add(&h, 150000);
    metrics_histogram_add(&h, 999650000);
    metrics_histogram_samples(&plain, "t", "", &h);
    cr_assert_str_eq(text_of(&plain), "t_bucket{le=\"0.0001\"} 1\nt_bucket{le=\"0.0002\"} 3\n"
                                      "t_bucket{le=\"+Inf\"} 4\nt_sum 1.000000000\nt_count 4\n");
    metrics_histogram_samples(&labelled, "t", "To=\"a\"", &h);
    cr_assert_not_null(strstr(text_of(&labelled), "t_bucket{To=\"a\",le=\"0.0002\"} 3\n"));
    cr_assert_not_null(strstr(text_of(&labelled), "t_sum{To=\"a\"} 1.000000000\n"));
}
