// All forms of operator new and delete, as a C++ program uses them, also when memory runs out.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                       \
            std::exit(1);                                                                                              \
        }                                                                                                              \
    } while (0)

struct Small {
    char bytes[24];
};
struct alignas(64) Aligned {
    char bytes[100];
};
struct alignas(4096) Page {
    char bytes[10];
};
struct Large {
    char bytes[5000];
};

template <class T> static T *opaque(T *pointer) {
    asm volatile("" : "+r"(pointer) : : "memory");
    return pointer;
}

template <class T> static void every_form() {
    for (int round = 0; round < 1000; round++) {
        T *one = opaque(new T), *many = opaque(new T[7]);
        T *one_or_null = opaque(new (std::nothrow) T), *many_or_null = opaque(new (std::nothrow) T[7]);
        for (T *pointer : {one, many, one_or_null, many_or_null})
            CHECK(pointer && reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) == 0);
        delete one;
        delete[] many;
        ::operator delete(one_or_null, std::nothrow);
        delete[] many_or_null;
    }
}

static int handler_calls;
static void handler() {
    if (++handler_calls == 3) std::set_new_handler(nullptr);
}

static void out_of_memory() {
    volatile std::size_t too_much = PTRDIFF_MAX - 100;
    CHECK(!::operator new(too_much, std::nothrow));
    CHECK(!::operator new[](too_much, std::nothrow));
    CHECK(!::operator new(too_much, std::align_val_t(64), std::nothrow));
    for (int form = 0; form < 4; form++) {
        handler_calls = 0;
        std::set_new_handler(handler);
        bool thrown = false;
        try {
            void *block = nullptr;
            switch (form) {
            case 0: block = ::operator new(too_much); break;
            case 1: block = ::operator new[](too_much); break;
            case 2: block = ::operator new(too_much, std::align_val_t(64)); break;
            case 3: block = ::operator new[](too_much, std::align_val_t(64)); break;
            }
            CHECK(!block);
        } catch (const std::bad_alloc &) {
            thrown = true;
        }
        CHECK(thrown && handler_calls == 3);
    }
}

int main(int, char **arguments) {
    // Whose operators are they? The program's own, without the library.
    Dl_info info;
    if (arguments[1])
        CHECK(dladdr(dlsym(RTLD_DEFAULT, "_ZdlPvm"), &info) && std::string(info.dli_fname).find(arguments[1]) != std::string::npos);
    every_form<char>();
    every_form<Small>();
    every_form<Aligned>();
    every_form<Page>();
    every_form<Large>();
    out_of_memory();
    std::map<std::string, std::vector<int>> map;
    for (int number = 0; number < 10000; number++) map[std::to_string(number * 7919 % 5000)].push_back(number);
    std::size_t sum = 0;
    for (auto &entry : map) sum += entry.first.size() * entry.second.size();
    std::printf("%zu\n", sum);
}
