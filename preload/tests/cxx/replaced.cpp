// A program that replaces only the two basic operators. Every other form must call them, as C++ says.
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <new>

static long live, calls;

// Puts a header before each block: a function other than ours that frees the block gets a wrong address.
void *operator new(std::size_t bytes) {
    live++, calls++;
    char *block = static_cast<char *>(std::malloc(bytes + 32));
    if (!block) throw std::bad_alloc();
    return block + 32;
}

void operator delete(void *block) noexcept {
    if (!block) return;
    live--;
    std::free(static_cast<char *>(block) - 32);
}

int main() {
    for (std::size_t bytes : {1, 24, 100, 512, 5000}) {
        ::operator delete(::operator new(bytes), bytes);
        ::operator delete[](::operator new[](bytes));
        ::operator delete[](::operator new[](bytes), bytes);
        ::operator delete(::operator new(bytes, std::nothrow), std::nothrow);
        ::operator delete[](::operator new[](bytes, std::nothrow), std::nothrow);
    }
    std::printf("%ld live after %ld calls\n", live, calls);
    return live != 0 || calls != 25;
}
