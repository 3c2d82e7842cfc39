/*
 * Stands in for Criterion in builds with --enable-tsan: Criterion's inheritable arena and the
 * thread sanitizer want the same addresses. Each test runs in a fork, one after the other; the
 * arguments of a program are names of tests to run. Messages of asserts are left out.
 */
#ifndef CONCLAVE_TSAN_CRITERION_H
#define CONCLAVE_TSAN_CRITERION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct shim_options {
    void (*init)(void);
    void (*fini)(void);
    double timeout;
    int signal;
    int exit_code;
    bool disabled;
    const char *description;
};
struct shim_test {
    const char *suite, *name;
    void (*run)(void);
    const struct shim_options *options;
    struct shim_test *next;
};
/* each test program is one file that includes this, so these are the program's own */
static struct shim_test *shim_tests, **shim_last = &shim_tests;
static struct {
    const char *suite;
    const struct shim_options *options;
} shim_suites[16];
static size_t shim_suite_count;

#define TestSuite(suite_, ...)                                                                     \
    static const struct shim_options shim_suite_##suite_ = {__VA_ARGS__};                          \
    __attribute__((constructor)) static void shim_add_suite_##suite_(void)                         \
    {                                                                                              \
        shim_suites[shim_suite_count].suite = #suite_;                                             \
        shim_suites[shim_suite_count++].options = &shim_suite_##suite_;                            \
    }                                                                                              \
    static const struct shim_options shim_suite_##suite_

#define Test(suite_, name_, ...)                                                                   \
    static void suite_##_##name_##_run(void);                                                      \
    static const struct shim_options shim_options_##suite_##_##name_ = {__VA_ARGS__};              \
    __attribute__((constructor)) static void shim_add_##suite_##_##name_(void)                     \
    {                                                                                              \
        static struct shim_test test = {#suite_, #name_, suite_##_##name_##_run,                   \
                                        &shim_options_##suite_##_##name_, NULL};                   \
                                                                                                   \
        *shim_last = &test;                                                                        \
        shim_last = &test.next;                                                                    \
    }                                                                                              \
    static void suite_##_##name_##_run(void)

static inline void shim_check(bool ok, const char *what, const char *file, int line)
{
    if (ok)
        return;
    fprintf(stderr, "%s:%d: %s\n", file, line, what);
    exit(EXIT_FAILURE);
}

#define cr_assert(c, ...) shim_check((c), #c, __FILE__, __LINE__)
#define cr_assert_not(c, ...) cr_assert(!(c))
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b))
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b))
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b))
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b))
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b))
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b))
#define cr_assert_null(p, ...) cr_assert((p) == NULL)
#define cr_assert_not_null(p, ...) cr_assert((p) != NULL)
#define cr_assert_str_eq(a, b, ...) cr_assert(strcmp((a), (b)) == 0)
#define cr_assert_str_neq(a, b, ...) cr_assert(strcmp((a), (b)) != 0)
#define cr_assert_arr_eq(a, b, n, ...) cr_assert(memcmp((a), (b), (n)) == 0)
#define cr_assert_fail(...) shim_check(false, "failed", __FILE__, __LINE__)
#define cr_fail(...) cr_assert_fail()

#define cr_expect(c, ...) cr_assert(c)
#define cr_expect_eq(a, b, ...) cr_assert_eq(a, b)
#define cr_expect_lt(a, b, ...) cr_assert_lt(a, b)
#define cr_expect_gt(a, b, ...) cr_assert_gt(a, b)
#define cr_expect_not_null(p, ...) cr_assert_not_null(p)
#define cr_expect_str_eq(a, b, ...) cr_assert_str_eq(a, b)

static inline void shim_run(const struct shim_test *t)
{
    const struct shim_options *suite = &(const struct shim_options){NULL};

    for (size_t i = 0; i < shim_suite_count; i++) {
        if (strcmp(shim_suites[i].suite, t->suite) == 0)
            suite = shim_suites[i].options;
    }
    if (suite->init != NULL)
        suite->init();
    if (t->options->init != NULL)
        t->options->init();
    t->run();
    if (t->options->fini != NULL)
        t->options->fini();
    if (suite->fini != NULL)
        suite->fini();
    exit(EXIT_SUCCESS);
}

int main(int argc, char **argv)
{
    int failed = 0, status;

    for (const struct shim_test *t = shim_tests; t != NULL; t = t->next) {
        bool wanted = argc < 2 && !t->options->disabled;
        pid_t pid;
        bool ok;

        for (int i = 1; i < argc; i++)
            wanted = wanted || strcmp(argv[i], t->name) == 0;
        if (!wanted)
            continue;
        pid = fork();
        if (pid == 0)
            shim_run(t);
        waitpid(pid, &status, 0);
        if (t->options->signal != 0)
            ok = WIFSIGNALED(status) && WTERMSIG(status) == t->options->signal;
        else
            ok = WIFEXITED(status) && WEXITSTATUS(status) == t->options->exit_code;
        if (!ok)
            fprintf(stderr, "[FAIL] %s::%s: status %x\n", t->suite, t->name, (unsigned int)status);
        failed += !ok;
    }
    fprintf(stderr, "[====] %d failed\n", failed);
    return failed != 0;
}

#endif
