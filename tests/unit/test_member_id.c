/* Ids must be etcd's, bit for bit; URLs are what an operator types. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "lib/util/member_id.h"
#include "lib/util/url.h"

Test(member_id, known_clusters)
{
    static const struct {
        const char *url;
        uint64_t member, cluster;
    } rows[] = {
        {"http://localhost:2380", 0x8e9e05c52164694d, 0xcdf818194e3a8c32},
        {"http://127.0.0.1:22380", 0x9e737febb6b99eee, 0xc8730d66636ff140},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint64_t id = member_id_derive(&rows[i].url, 1, "etcd-cluster", NULL);

        cr_expect_eq(id, rows[i].member, "%s: %016lx", rows[i].url, (unsigned long)id);
        cr_expect_eq(cluster_id_derive(&id, 1), rows[i].cluster);
    }
}

Test(member_id, order_does_not_matter_but_token_and_time_do)
{
    const char *ab[] = {"http://a:1", "http://b:1"}, *ba[] = {"http://b:1", "http://a:1"};
    uint64_t ids[] = {1, 2, 3}, turned[] = {3, 1, 2};
    uint64_t id = member_id_derive(ab, 2, "t", NULL);

    cr_expect_eq(id, member_id_derive(ba, 2, "t", NULL));
    cr_expect_neq(id, member_id_derive(ab, 2, "u", NULL));
    cr_expect_neq(id, member_id_derive(ab, 2, "t", "1700000000"));
    cr_expect_neq(id, member_id_derive(ab, 1, "t", NULL));
    cr_expect_eq(cluster_id_derive(ids, 3), cluster_id_derive(turned, 3));
    cr_expect_neq(cluster_id_derive(ids, 3), cluster_id_derive(ids, 2));
}

Test(url, parse)
{
    static const struct {
        const char *text, *scheme, *host, *port, *error;
    } rows[] = {
        {"http://localhost:2380", "http", "localhost", "2380", NULL},
        {" https://10.0.0.1:1 ", "https", "10.0.0.1", "1", NULL},
        {"http://[::1]:2380", "http", "::1", "2380", NULL},
        {"http://:2380", "http", "", "2380", NULL},
        {"unix:///run/x.sock", "unix", "/run/x.sock", "", NULL},
        {"http://1.2.3.4", NULL, NULL, NULL,
         "URL address does not have the form \"host:port\": http://1.2.3.4"},
        {"http://1.2.3.4:", NULL, NULL, NULL,
         "URL address does not have the form \"host:port\": http://1.2.3.4:"},
        {"http://1.2.3.4:70000", NULL, NULL, NULL,
         "URL address does not have the form \"host:port\": http://1.2.3.4:70000"},
        {"http://a:b:1", NULL, NULL, NULL,
         "URL address does not have the form \"host:port\": http://a:b:1"},
        {"http://[::1:1", NULL, NULL, NULL,
         "parse \"http://[::1:1\": missing ']' in host"},
        {"http://a:x", NULL, NULL, NULL, "parse \"http://a:x\": invalid port \":x\" after host"},
        {"ftp://a:1", NULL, NULL, NULL, "URL scheme must be http, https, unix, or unixs: ftp://a:1"},
        {"localhost:1", NULL, NULL, NULL,
         "URL scheme must be http, https, unix, or unixs: localhost:1"},
        {"http://a:1/", NULL, NULL, NULL, "URL must not contain a path: http://a:1/"},
        {"", NULL, NULL, NULL, "URL scheme must be http, https, unix, or unixs: "},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct url u;
        char *error = NULL;
        int r = url_parse(bytes_str(rows[i].text), &u, &error);

        if (rows[i].error != NULL) {
            cr_assert_neq(r, 0, "%s", rows[i].text);
            cr_expect_str_eq(error, rows[i].error);
            free(error);
            continue;
        }
        cr_assert_eq(r, 0, "%s: %s", rows[i].text, error);
        cr_expect_str_eq(u.scheme, rows[i].scheme);
        cr_expect_str_eq(u.host, rows[i].host);
        cr_expect_str_eq(u.port, rows[i].port);
        url_fini(&u);
    }
}

Test(url, lists)
{
    struct url_list l, m;
    char *error = NULL, *text;

    cr_assert_eq(url_list_parse(BYTES_LIT("http://b:1, http://a:1,http://b:1"), &l, &error), 0);
    text = url_list_join(&l);
    cr_expect_str_eq(text, "http://a:1,http://b:1");
    free(text);
    url_list_split(BYTES_LIT("http://a:1,,http://b:1,"), &m);
    cr_expect(url_list_eq(&l, &m));
    url_list_fini(&m);
    url_list_split(BYTES_LIT("http://a:1"), &m);
    cr_expect_not(url_list_eq(&l, &m));
    url_list_fini(&m);
    url_list_fini(&l);
    cr_expect_neq(url_list_parse(BYTES_LIT(""), &l, &error), 0);
    cr_expect_str_eq(error, "no valid URLs given");
    free(error);
    cr_expect_neq(url_list_parse(BYTES_LIT("http://a:1,,"), &l, &error), 0);
    free(error);
}
