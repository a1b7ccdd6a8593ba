#pragma once

#include <string>

namespace moegrad {

// What becomes of characters before a text is cut into word pieces, as BERT's uncased models have it
// (Devlin et al. 2019): decomposed (NFD), without the marks that stand on letters, in lower case. "É"
// is "e", "Й" is "и", "が" is "か", "각" is its three letters. The ideographs that Unicode has twice
// (U+F900 to U+FAFF) are left as they are.
void append_folded(char32_t character, std::u32string& out);

bool is_blank(char32_t character);        // white space
bool is_control(char32_t character);      // of the categories C, but for tab, LF and CR
bool is_punctuation(char32_t character);  // what ASCII has beside letters and digits, and P
bool is_ideograph(char32_t character);    // of Chinese, each a word of its own

std::string to_utf8(std::u32string_view text);

}  // namespace moegrad
