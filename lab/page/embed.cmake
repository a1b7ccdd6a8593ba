# The files of `moegrad report`'s page become strings of the library. Sets page_sources: what defines lab/page_files.h.

set(page_folder ${CMAKE_CURRENT_LIST_DIR})
set(cache_folder $ENV{XDG_CACHE_HOME})
if(NOT cache_folder)
  set(cache_folder $ENV{HOME}/.cache)
endif()
find_file(MOEGRAD_D3 d3.min.js PATHS ${cache_folder}/moegrad/d3 NO_DEFAULT_PATH
  DOC "d3 5.16, beside its licence, copyright; scripts/setup fetches both")

set(page_html ${page_folder}/report.html)
set(page_css ${page_folder}/report.css)
set(page_js ${page_folder}/report.js)
set(page_d3 "")
set(page_licence "")
if(MOEGRAD_D3)
  set(page_d3 ${MOEGRAD_D3})
  cmake_path(REPLACE_FILENAME MOEGRAD_D3 copyright OUTPUT_VARIABLE page_licence)
else()
  message(STATUS "[cmake] no d3: `moegrad report` will say so. scripts/setup fetches it.")
endif()

# Pedantic compilers count the letters of a literal.
set(page_text "#include \"lab/page_files.h\"\n\n#pragma GCC diagnostic ignored \"-Woverlength-strings\"\n\n")
string(APPEND page_text "namespace moegrad::page_files {\n")
foreach(name IN ITEMS html css js d3 licence)
  set(content "")
  if(page_${name})
    file(READ ${page_${name}} content)
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${page_${name}})
  endif()
  string(APPEND page_text "const std::string_view ${name} = R\"moegrad(${content})moegrad\";\n")
endforeach()
string(APPEND page_text "}  // namespace moegrad::page_files\n")

set(page_sources ${PROJECT_BINARY_DIR}/page_files.cc)
file(CONFIGURE OUTPUT ${page_sources} CONTENT "@page_text@" @ONLY)
set_source_files_properties(${page_sources} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
